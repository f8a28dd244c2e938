/* Classifies an embedded picture. */
#include "board.h"
#include "digits.h"
#include "samples.h"

static _Alignas(DIGITS_ARENA_ALIGN) unsigned char arena[DIGITS_ARENA_BYTES];
static float image[DIGITS_INPUT_IMAGE_SIZE], probabilities[DIGITS_OUTPUT_PROBABILITIES_SIZE];

int main(void) {
  for (int k = 0; k < DIGITS_INPUT_IMAGE_SIZE; ++k) image[k] = (float)samples[DIGIT][k] / 255.0f;
  const int status = digits_run(&(digits_inputs){.image = image}, &(digits_outputs){.probabilities = probabilities}, arena);
  if (status != DIGITS_OK) {
    board_print("the model could not run\n");
    return status;
  }
  int best = 0;
  for (int k = 1; k < DIGITS_OUTPUT_PROBABILITIES_SIZE; ++k) {
    if (probabilities[k] > probabilities[best]) best = k;
  }
  board_print((char[]){'c', 'l', 'a', 's', 's', ' ', (char)('0' + best), '\n', 0});
  return 0;
}
