/* The serial port of the MPS2 boards, and the end of a program under an emulator or debugger. */
#include "board.h"

#include <stdint.h>

/* ARM's CMSDK UART (DDI 0479): DATA, STATE, CTRL, INTSTATUS, BAUDDIV. */
#define UART ((volatile uint32_t *)0x40004000)
enum { DATA, STATE, CTRL, INTSTATUS, BAUDDIV };
enum { STATE_FULL = 1, CTRL_SEND = 1 };

void board_init(void) {
  UART[BAUDDIV] = 25000000 / 115200;
  UART[CTRL] = CTRL_SEND;
}

void board_print(const char *text) {
  for (; *text; ++text) {
    while (UART[STATE] & STATE_FULL) {}
    UART[DATA] = (uint8_t)*text;
  }
}

/* Semihosting: SYS_EXIT_EXTENDED with the reason ADP_Stopped_ApplicationExit and the status. Without a debugger this is a fault. */
_Noreturn void board_exit(int status) {
  const uint32_t block[] = {0x20026, (uint32_t)status};
  register uint32_t operation __asm__("r0") = 0x20;
  register const uint32_t *argument __asm__("r1") = block;
  __asm__ volatile("bkpt 0xAB" : "+r"(operation) : "r"(argument) : "memory");
  for (;;) {}
}
