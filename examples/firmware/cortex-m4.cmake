# Toolchain file: GNU's compiler for a Cortex-M4 without an operating system, and a machine to try it on.
set(CMAKE_SYSTEM_NAME Generic)
set(CMAKE_SYSTEM_PROCESSOR cortex-m4)
set(CMAKE_C_COMPILER arm-none-eabi-gcc)
set(CMAKE_C_FLAGS_INIT "-mcpu=cortex-m4 -mthumb -mfloat-abi=hard -mfpu=fpv4-sp-d16 -ffunction-sections -fdata-sections")
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY) # there is nothing to link a program with before the project's linker script

set(LEPTON_TARGET cortex-m4) # what lepton_add_model compiles for
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-system-arm;-machine;mps2-an386;-display;none;-monitor;none;-serial;stdio;-semihosting-config;enable=on,target=native;-kernel)
