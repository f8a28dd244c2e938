#include <stdio.h>
#include "tiny.h"

int main(void) {
  static _Alignas(TINY_ARENA_ALIGN) unsigned char arena[TINY_ARENA_BYTES];
  float x[TINY_INPUT_X_SIZE] = {1, 2, 3, 4}, y[TINY_OUTPUT_Y_SIZE];
  int status = tiny_run(&(tiny_inputs){.x = x}, &(tiny_outputs){.y = y}, arena);
  if (status == TINY_OK) printf("%.6f %.6f\n", y[0], y[1]);
  return status;
}
