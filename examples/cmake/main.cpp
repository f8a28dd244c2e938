// Prints the class of a picture: classify DIGIT takes the sample of that digit.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iterator>

#include "digits.h"
#include "samples.h"

int main(int argc, char **argv) {
  const unsigned digit = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 7;
  if (digit > 9) {
    std::fprintf(stderr, "usage: classify DIGIT\n");
    return 2;
  }
  alignas(DIGITS_ARENA_ALIGN) static unsigned char arena[DIGITS_ARENA_BYTES];
  float image[DIGITS_INPUT_IMAGE_SIZE], probabilities[DIGITS_OUTPUT_PROBABILITIES_SIZE];
  std::transform(std::begin(samples[digit]), std::end(samples[digit]), image, [](uint8_t grey) { return grey / 255.0f; });

  digits_inputs inputs{};
  inputs.image = image;
  digits_outputs outputs{};
  outputs.probabilities = probabilities;
  if (int status = digits_run(&inputs, &outputs, arena)) return status;
  const float *best = std::max_element(std::begin(probabilities), std::end(probabilities));
  std::printf("class %d, probability %.3f\n", static_cast<int>(best - probabilities), *best);
  return 0;
}
