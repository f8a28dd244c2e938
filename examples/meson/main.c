/* Prints the class of a picture: classify DIGIT takes the sample of that digit. Fails where that is not the class. */
#include <stdio.h>
#include <stdlib.h>

#include "digits.h"
#include "samples.h"

int main(int argc, char **argv) {
  static _Alignas(DIGITS_ARENA_ALIGN) unsigned char arena[DIGITS_ARENA_BYTES];
  const unsigned long digit = argc > 1 ? strtoul(argv[1], NULL, 10) : 7;
  float image[DIGITS_INPUT_IMAGE_SIZE], probabilities[DIGITS_OUTPUT_PROBABILITIES_SIZE];
  unsigned long best = 0;
  if (digit > 9) return 2;
  for (int k = 0; k < DIGITS_INPUT_IMAGE_SIZE; ++k) image[k] = (float)samples[digit][k] / 255.0f;
  const int status = digits_run(&(digits_inputs){.image = image}, &(digits_outputs){.probabilities = probabilities}, arena);
  if (status != DIGITS_OK) return status;
  for (unsigned long k = 1; k < DIGITS_OUTPUT_PROBABILITIES_SIZE; ++k) {
    if (probabilities[k] > probabilities[best]) best = k;
  }
  printf("class %lu, probability %.3f\n", best, (double)probabilities[best]);
  return best != digit;
}
