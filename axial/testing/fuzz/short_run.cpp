// SPDX-License-Identifier: Apache-2.0
// main() of <name>_fuzz_short: a fuzz target without libFuzzer, fed with mutations of its seeds in an order
// that never changes, so that every test run does some fuzzing. AxialUnit.cmake builds one for each
// *_fuzz.cpp; tools/fuzz is the long, coverage-guided run. Usage: <program> [inputs [seed]].
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <csignal>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "axial/core/rng/rng.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
/// Valid inputs, defined by the fuzz target.
std::vector<std::string> fuzz_seeds();

namespace {

constexpr size_t kLongest = 1024;
constexpr size_t kPool = 256;  // seeds and the latest mutants, which mutations start from

std::string g_input;
uint64_t g_index = 0;

/// Numbers of [0, end), one after the other.
class Dice {
 public:
  explicit Dice(uint64_t seed) : key_(axial::root_key(seed).child("fuzz")) {}
  size_t below(size_t end) { return axial::random_below(key_, drawn_++, end); }

 private:
  axial::RngKey key_;
  uint64_t drawn_ = 0;
};

void mutate_once(std::string& text, const std::vector<std::string>& pool, Dice& dice) {
  static constexpr std::string_view kTelling("\0\x01\x7f\x80\xff\r\n\t >;:-[]{}\"'&*!#,0919ACGTN", 33);
  const size_t at = dice.below(text.size() + 1);
  const size_t length = dice.below(std::min<size_t>(text.size() - at, 16) + 1);
  switch (dice.below(7)) {
    case 0:  // flip a bit
      if (at < text.size()) text[at] = static_cast<char>(text[at] ^ (1 << dice.below(8)));
      break;
    case 1:  // a byte that means something to a parser
      text.insert(at, 1, kTelling[dice.below(kTelling.size())]);
      break;
    case 2:
      if (at < text.size()) text[at] = static_cast<char>(dice.below(256));
      break;
    case 3:
      text.erase(at, length);
      break;
    case 4:  // repeat a part
      text.insert(dice.below(text.size() + 1), text.substr(at, length));
      break;
    case 5: {  // go on like another input
      const std::string& other = pool[dice.below(pool.size())];
      text = text.substr(0, at) + other.substr(dice.below(other.size() + 1));
      break;
    }
    default:
      text.resize(at);
  }
}

std::string mutant(const std::vector<std::string>& pool, size_t seeds, Dice& dice) {
  // Mostly from a seed: mutants of mutants soon fail in the first lines of any parser.
  std::string text = pool[dice.below(dice.below(4) == 0 ? pool.size() : seeds)];
  for (size_t i = 1 + dice.below(4); i > 0; --i) mutate_once(text, pool, dice);
  if (text.size() > kLongest) text.resize(kLongest);
  return text;
}

/// Show the input that the target died of; the signal then ends the program as it would have.
void report(int signal_number) {
  std::string line = fmt::format("\ninput {} of {} bytes: ", g_index, g_input.size());
  for (const char c : g_input) line += fmt::format("{:02x}", static_cast<unsigned char>(c));
  line += "\n";
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
  signal(signal_number, SIG_DFL);
  raise(signal_number);
}

uint64_t argument(int argc, char** argv, int index, uint64_t otherwise) {
  if (index >= argc) return otherwise;
  const std::string_view text = argv[index];
  std::from_chars(text.data(), text.data() + text.size(), otherwise);
  return otherwise;
}

}  // namespace

int main(int argc, char** argv) {
  for (const int number : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL}) {
    const auto before = signal(number, report);
    if (before != SIG_DFL) signal(number, before);  // a sanitizer's
  }
  const uint64_t inputs = argument(argc, argv, 1, 20'000);
  Dice dice(argument(argc, argv, 2, 0));
  const std::vector<std::string> seeds = fuzz_seeds();
  std::vector<std::string> pool = seeds;
  for (; g_index < inputs; ++g_index) {
    g_input = g_index < seeds.size() ? seeds[g_index] : mutant(pool, seeds.size(), dice);
    if (LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(g_input.data()), g_input.size()) != 0)
      raise(SIGABRT);
    if (pool.size() < kPool) {
      pool.push_back(g_input);
    } else {  // seeds stay
      pool[seeds.size() + dice.below(kPool - seeds.size())] = g_input;
    }
  }
  fmt::print("{} inputs from {} seeds\n", inputs, seeds.size());
  return 0;
}
