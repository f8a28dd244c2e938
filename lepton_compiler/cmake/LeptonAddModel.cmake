# lepton_add_model(NAME MODEL
#   [TARGET machine[,feature...]] [CPU name] [LEVEL 0|1|2|3|s] [KIND static|lib] [THREADS n]
#   [DIMS name=n[,n...] ...] [INPUTS name=1x3x224x224 ...]
#   [QUANTIZE scheme] [CALIBRATE data] [OPTIONS ...] [DEPENDS file ...] [VERIFY])
#
# Compiles MODEL at build time, and again when the model (with its external weights), these options or leptonc change. Defines the imported
# library NAME, also called Lepton::NAME, with its include folder and what it must be linked with; the header is NAME.h, its functions
# begin with NAME_. See docs/build_integration.md.
#
# MODEL and CALIBRATE (a file, a folder, or module:function) are relative to the current source folder. TARGET is LEPTON_TARGET if that variable is set (a toolchain file may),
# else this machine. KIND is `lib` if BUILD_SHARED_LIBS is on, else `static`.

include_guard(GLOBAL)

function(lepton_add_model name model)
  cmake_parse_arguments(PARSE_ARGV 2 arg "VERIFY" "TARGET;CPU;LEVEL;KIND;THREADS;QUANTIZE;CALIBRATE" "DIMS;INPUTS;OPTIONS;DEPENDS")
  _lepton_check_arguments()
  _lepton_choose_machine()
  _lepton_command_line()

  set(out "lepton/${name}")
  set(folder "${CMAKE_CURRENT_BINARY_DIR}/${out}")
  get_filename_component(model "${model}" ABSOLUTE)
  if(arg_KIND STREQUAL "lib")
    set(library "lib${name}.so")
  else()
    set(library "lib${name}.a")
  endif()
  file(MAKE_DIRECTORY "${folder}") # a library's include folder has to be there when the build is generated

  # Ninja runs a command again when it reads differently; make has to be told, by a file that is written only when it does.
  set(work "${CMAKE_CURRENT_BINARY_DIR}/CMakeFiles/${name}_model.dir")
  string(REPLACE ";" "\n" text "${Lepton_LEPTONC};${model};${options}")
  file(CONFIGURE OUTPUT "${work}/options" CONTENT "@text@\n" @ONLY)

  # The model is compiled in a folder of its own: files that come out as they were keep their times, so that what uses them is not built
  # again. The manifest is the last to be written. Its relative name is the one in the depfile, which CMake reads as seen from the build folder.
  get_filename_component(shown "${model}" NAME)
  add_custom_command(
    OUTPUT "${folder}/${name}.json"
    BYPRODUCTS "${folder}/${library}" "${folder}/${name}.h" "${folder}/${name}.c"
    COMMAND "${Lepton_LEPTONC}" "${model}" -o "${out}" ${options} -MF depfile
    COMMAND "${CMAKE_COMMAND}" -E copy_if_different "${out}/${library}" "${out}/${name}.h" "${out}/${name}.c" "${folder}"
    COMMAND "${CMAKE_COMMAND}" -E copy "${out}/${name}.json" "${folder}"
    COMMAND "${CMAKE_COMMAND}" -E rm -rf "${out}"
    WORKING_DIRECTORY "${work}"
    DEPENDS "${model}" "${work}/options" ${arg_DEPENDS}
    DEPFILE "${work}/depfile"
    COMMENT "Compiling ${shown} for ${arg_TARGET}"
    VERBATIM)
  add_custom_target(${name}_model DEPENDS "${folder}/${name}.json")
  _lepton_import_library()
endfunction()

# -- inside; macros work on the variables of lepton_add_model

macro(_lepton_check_arguments)
  set(_lepton_said "lepton_add_model(${name} ...):")
  if(NOT name MATCHES "^[A-Za-z][A-Za-z0-9_]*$")
    message(FATAL_ERROR "${_lepton_said} the name is no C identifier; use letters, digits and underscores, a letter first")
  elseif(TARGET ${name})
    message(FATAL_ERROR "${_lepton_said} there is a target of that name already; choose another one")
  elseif(arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "${_lepton_said} does not know '${arg_UNPARSED_ARGUMENTS}'; hand options of leptonc on with OPTIONS")
  elseif(arg_KEYWORDS_MISSING_VALUES)
    message(FATAL_ERROR "${_lepton_said} no value after ${arg_KEYWORDS_MISSING_VALUES}")
  elseif(arg_KIND AND NOT arg_KIND MATCHES "^(lib|static)$")
    message(FATAL_ERROR "${_lepton_said} KIND ${arg_KIND} is no library; say static or lib")
  endif()
endmacro()

macro(_lepton_choose_machine)
  if(NOT arg_TARGET)
    set(arg_TARGET "${LEPTON_TARGET}")
  endif()
  if(NOT arg_TARGET AND CMAKE_CROSSCOMPILING)
    message(FATAL_ERROR "${_lepton_said} this build is for another machine; say TARGET, or set LEPTON_TARGET in the toolchain file ('lepton targets' lists them)")
  elseif(NOT arg_TARGET)
    set(arg_TARGET native)
  endif()
  if(NOT arg_KIND AND BUILD_SHARED_LIBS AND NOT arg_TARGET MATCHES "^cortex-m")
    set(arg_KIND lib)
  elseif(NOT arg_KIND)
    set(arg_KIND static)
  endif()
endmacro()

macro(_lepton_command_line)
  set(options --name "${name}" --emit "${arg_KIND}" --target "${arg_TARGET}")
  foreach(_lepton_pair "CPU --cpu" "THREADS --threads" "QUANTIZE --quantize")
    string(REPLACE " " ";" _lepton_pair "${_lepton_pair}")
    list(GET _lepton_pair 0 _lepton_key)
    list(GET _lepton_pair 1 _lepton_option)
    if(DEFINED arg_${_lepton_key})
      list(APPEND options ${_lepton_option} "${arg_${_lepton_key}}")
    endif()
  endforeach()
  if(DEFINED arg_LEVEL)
    list(APPEND options "-O${arg_LEVEL}")
  endif()
  if(DEFINED arg_CALIBRATE)
    if(arg_CALIBRATE MATCHES "^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$") # module:function, which the compiler imports
      list(APPEND options --calibrate "${arg_CALIBRATE}")
    else()
      get_filename_component(_lepton_samples "${arg_CALIBRATE}" ABSOLUTE)
      list(APPEND options --calibrate "${_lepton_samples}")
      list(APPEND arg_DEPENDS "${_lepton_samples}")
      if(IS_DIRECTORY "${_lepton_samples}")
        file(GLOB _lepton_samples CONFIGURE_DEPENDS "${_lepton_samples}/*")
        list(APPEND arg_DEPENDS ${_lepton_samples})
      endif()
    endif()
  endif()
  foreach(_lepton_value IN LISTS arg_DIMS)
    list(APPEND options --dim "${_lepton_value}")
  endforeach()
  foreach(_lepton_value IN LISTS arg_INPUTS)
    list(APPEND options --input "${_lepton_value}")
  endforeach()
  if(arg_VERIFY)
    list(APPEND options --verify)
  endif()
  list(APPEND options ${arg_OPTIONS})
endmacro()

macro(_lepton_import_library)
  if(arg_KIND STREQUAL "lib")
    add_library(${name} SHARED IMPORTED GLOBAL)
    set_target_properties(${name} PROPERTIES IMPORTED_SONAME "lib${name}.so")
  else()
    add_library(${name} STATIC IMPORTED GLOBAL)
    if(NOT arg_TARGET MATCHES "^cortex-m") # firmware needs nothing but memcpy and memset
      set_target_properties(${name} PROPERTIES INTERFACE_LINK_LIBRARIES m)
      if(DEFINED arg_THREADS AND arg_THREADS GREATER 1)
        set_target_properties(${name} PROPERTIES INTERFACE_LINK_OPTIONS -pthread)
      endif()
    endif()
  endif()
  set_target_properties(${name} PROPERTIES IMPORTED_LOCATION "${folder}/${library}" INTERFACE_INCLUDE_DIRECTORIES "${folder}")
  add_library(Lepton::${name} ALIAS ${name})
  add_dependencies(${name} ${name}_model)
endmacro()
