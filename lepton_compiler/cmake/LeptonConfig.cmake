# find_package(Lepton): finds leptonc and defines lepton_add_model.
#
#   find_package(Lepton 0.1 REQUIRED)     # with -DLepton_DIR=$(leptonc --cmake-dir)
#   lepton_add_model(digits digits.onnx)
#   target_link_libraries(app PRIVATE Lepton::digits)
#
# Lepton_LEPTONC is the command: from the cache or the environment's PATH, or beside the Python that these files belong to.

cmake_policy(PUSH)
cmake_policy(VERSION 3.20...3.31)

# An installation has these files in PREFIX/lib/python3.N/site-packages/lepton_compiler/cmake, a clone with .venv in lepton_compiler/cmake.
find_program(Lepton_LEPTONC NAMES leptonc
  HINTS "${CMAKE_CURRENT_LIST_DIR}/../../../../../bin" "${CMAKE_CURRENT_LIST_DIR}/../../.venv/bin"
  DOC "Lepton's compiler" NO_CMAKE_FIND_ROOT_PATH)
mark_as_advanced(Lepton_LEPTONC)

if(NOT Lepton_LEPTONC)
  set(Lepton_FOUND FALSE)
  set(Lepton_NOT_FOUND_MESSAGE "leptonc is not on the PATH; activate its Python environment or say -DLepton_LEPTONC=/path/to/leptonc")
else()
  execute_process(COMMAND "${Lepton_LEPTONC}" --version
    OUTPUT_VARIABLE _lepton_version ERROR_VARIABLE _lepton_error RESULT_VARIABLE _lepton_status OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(NOT _lepton_status STREQUAL "0")
    set(Lepton_FOUND FALSE)
    set(Lepton_NOT_FOUND_MESSAGE "'${Lepton_LEPTONC} --version' failed: ${_lepton_status} ${_lepton_error}")
  elseif(NOT _lepton_version STREQUAL "leptonc ${Lepton_VERSION}")
    set(Lepton_FOUND FALSE)
    set(Lepton_NOT_FOUND_MESSAGE
      "${Lepton_LEPTONC} is '${_lepton_version}', but ${CMAKE_CURRENT_LIST_DIR} belongs to ${Lepton_VERSION}; set Lepton_DIR to what 'leptonc --cmake-dir' prints")
  else()
    set(Lepton_FOUND TRUE)
    include("${CMAKE_CURRENT_LIST_DIR}/LeptonAddModel.cmake")
  endif()
  unset(_lepton_version)
  unset(_lepton_error)
  unset(_lepton_status)
endif()

cmake_policy(POP)
