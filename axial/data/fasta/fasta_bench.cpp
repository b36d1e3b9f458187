// SPDX-License-Identifier: Apache-2.0
// Parsing speed on 64 MiB of 80-column genome text, in bytes of text per second.
#include <benchmark/benchmark.h>

#include "axial/data/fasta/fasta.h"

namespace {

void parse_text(benchmark::State& state) {
  std::string text;
  while (text.size() < (size_t{64} << 20)) {
    text += ">genome of a virus\n";
    for (int line = 0; line < 375; ++line) {
      for (int i = 0; i < 80; ++i) text += "ACGT"[(text.size() * 2654435761u >> 7) & 3];
      text += '\n';
    }
  }
  int64_t bases = 0;
  for (auto _ : state) {
    axial::data::FastaParser parser("bench", {}, [&](const axial::data::FastaRecord& r) {
      bases += static_cast<int64_t>(r.sequence.size());
    });
    for (size_t at = 0; at < text.size(); at += 1 << 20)
      parser.feed(std::string_view(text).substr(at, 1 << 20));
    parser.finish();
  }
  benchmark::DoNotOptimize(bases);
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(text.size()));
}
BENCHMARK(parse_text)->Unit(benchmark::kMillisecond);

}  // namespace
