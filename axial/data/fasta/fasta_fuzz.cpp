// SPDX-License-Identifier: Apache-2.0
// libFuzzer target: no input may crash the parser, and where its chunks are cut must not matter, neither
// for records nor for the error. The first byte picks the alphabet and the size of the chunks.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "axial/core/check/check.h"
#include "axial/data/fasta/fasta.h"

namespace {

std::string outcome(std::string_view text, axial::data::Alphabet alphabet, size_t chunk) {
  std::string seen;
  axial::data::FastaParser parser("fuzz", {alphabet}, [&](const axial::data::FastaRecord& r) {
    seen += fmt::format("{}|{}|{}|{}\n", r.line, r.name, r.description, r.sequence);
  });
  try {
    for (size_t at = 0; at < text.size(); at += chunk) parser.feed(text.substr(at, chunk));
    parser.finish();
  } catch (const axial::ValueError& error) {
    seen += error.what();
  }
  return seen;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data + 1), size - 1);
  const auto alphabet = data[0] & 1 ? axial::data::Alphabet::kAny : axial::data::Alphabet::kNucleotide;
  const size_t chunk = 1 + data[0] / 2 % 16;
  if (outcome(text, alphabet, size) != outcome(text, alphabet, chunk)) std::abort();
  return 0;
}

/// Where testing/fuzz/short_run.cpp begins.
std::vector<std::string> fuzz_seeds() {
  return {"\x02>gene1 a protein\nATGGCTAAA\nGAATAA\n>gene2\nATGNNRYTAA\n",
          "\x04>a\r\nacgtu\r\n\r\n>b c\r\nAC GT\r\n", "\x09>only a name\n>x\tt\nMSKGEELFTG*\n;note\n-",
          "\x1f\n\n>a\nA"};
}
