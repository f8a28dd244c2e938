/* From reset to main: the vector table, the FPU, variables. */
#include <stdint.h>

#include "board.h"

int main(void);

extern uint32_t stack_top, data_load, data_start, data_end, bss_start, bss_end; /* from mps2.ld */

_Noreturn void reset(void) {
  *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20; /* CPACR: coprocessors 10 and 11, the FPU */
  __asm__ volatile("dsb\n\tisb" ::: "memory");
  for (uint32_t *from = &data_load, *to = &data_start; to < &data_end;) *to++ = *from++;
  for (uint32_t *to = &bss_start; to < &bss_end;) *to++ = 0;
  board_init();
  board_exit(main());
}

static _Noreturn void fault(void) {
  board_print("fault\n");
  board_exit(100);
}

/* Top of the stack, reset, NMI, the four faults of ARMv7-M; nothing here enables an interrupt. */
__attribute__((section(".vectors"), used)) static const void *const vectors[] = {
    &stack_top, (const void *)reset, (const void *)fault, (const void *)fault, (const void *)fault, (const void *)fault, (const void *)fault,
};
