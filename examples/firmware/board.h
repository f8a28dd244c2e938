/* What the program needs of the board. */
#ifndef BOARD_H
#define BOARD_H

void board_init(void);
void board_print(const char *text);
_Noreturn void board_exit(int status);

#endif
