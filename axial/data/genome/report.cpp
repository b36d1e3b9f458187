// SPDX-License-Identifier: Apache-2.0
// Counts -> words.
#include "axial/data/genome/report.h"

#include "axial/core/check/check.h"
#include "axial/core/text/text.h"

namespace axial::data {
namespace {

constexpr size_t kNamesShown = 3;

double percent(int64_t part, int64_t whole) {
  return whole == 0 ? 0 : 100.0 * static_cast<double>(part) / static_cast<double>(whole);
}

// "1 record" or "7 records", with the first names when there are some.
std::string records_text(int64_t count, const std::vector<std::string>& names = {}) {
  std::string text = fmt::format("{} record{}", with_commas(count), count == 1 ? "" : "s");
  if (names.empty()) return text;
  text += " (";
  for (size_t i = 0; i < names.size() && i < kNamesShown; ++i) text += (i > 0 ? ", " : "") + names[i];
  return text + (count > static_cast<int64_t>(kNamesShown) ? ", ...)" : ")");
}

void add_names(std::vector<std::string>& to, const std::vector<std::string>& from) {
  for (const std::string& name : from) {
    if (to.size() < kNamesShown) to.push_back(name);
  }
}

}  // namespace

void add_counts(StoreCounts& sum, const StoreCounts& more) {
  sum.fasta.records += more.fasta.records;
  sum.fasta.bases += more.fasta.bases;
  sum.fasta.gaps += more.fasta.gaps;
  sum.fasta.unnamed += more.fasta.unnamed;
  sum.fasta.empty += more.fasta.empty;
  add_names(sum.fasta.empty_names, more.fasta.empty_names);
  sum.encode.records += more.encode.records;
  sum.encode.tokens += more.encode.tokens;
  sum.encode.unknown += more.encode.unknown;
  sum.encode.ragged += more.encode.ragged;
  sum.encode.dropped_bases += more.encode.dropped_bases;
  sum.encode.too_short += more.encode.too_short;
  add_names(sum.too_short_names, more.too_short_names);
  sum.repeated_names += more.repeated_names;
  sum.repeated_records += more.repeated_records;
}

std::vector<std::string> warnings_of(const StoreCounts& counts, const TokenizerOptions& tokenizer) {
  std::vector<std::string> out;
  const FastaCounts& f = counts.fasta;
  const EncodeCounts& e = counts.encode;
  const char* symbol = tokenizer.kind == "codon"        ? "codon"
                       : tokenizer.kind == "nucleotide" ? "base"
                                                        : "character";
  if (f.empty > 0) out.push_back(records_text(f.empty, f.empty_names) + " without a sequence: left out");
  if (e.too_short > 0) {
    out.push_back(fmt::format("{} shorter than one {}: left out",
                              records_text(e.too_short, counts.too_short_names), symbol));
  }
  if (e.ragged > 0) {
    out.push_back(
        fmt::format("{} with a length that is no multiple of 3 behind frame {}: {} trailing bases dropped",
                    records_text(e.ragged), tokenizer.frame, with_commas(e.dropped_bases)));
  }
  if (e.unknown > 0) {
    out.push_back(fmt::format("{} tokens ({:.3f} %) are unknown: {}s with an ambiguity code",
                              with_commas(e.unknown), percent(e.unknown, e.tokens), symbol));
  }
  if (f.gaps > 0) out.push_back(fmt::format("{} gap characters (- or .) removed", with_commas(f.gaps)));
  if (f.unnamed > 0) out.push_back(records_text(f.unnamed) + " without a name: named after the line");
  if (counts.repeated_names > 0) {
    out.push_back(records_text(counts.repeated_names) + " with a name that an earlier record has");
  }
  if (counts.repeated_records > 0) {
    out.push_back(records_text(counts.repeated_records) +
                  " with the sequence of an earlier record (kept, on its side of the split)");
  }
  return out;
}

std::vector<std::string> GenomeReport::lines() const {
  std::vector<std::string> out;
  out.push_back(fmt::format("data: {} in {} file{}, {} tokens", records_text(records), files,
                            files == 1 ? "" : "s", with_commas(tokens)));
  if (train_rows + validation_rows == 0) return out;
  std::string split_line =
      fmt::format("split: {} validate ({:.1f} %)", records_text(split.validation_records),
                  percent(split.validation_records, records));
  if (split.clusters != split.distinct || split.identity_used < 1) {
    split_line +=
        fmt::format(", {} clusters at identity {:.6g}, the largest with {} ({:.1f} % of the tokens)",
                    with_commas(split.clusters), split.identity_used, records_text(split.largest_cluster),
                    100 * split.largest_share);
  }
  out.push_back(split_line);
  out.push_back(
      fmt::format("rows: {} train ({:.1f} % filled), {} validate ({:.1f} % filled), {} cut into windows",
                  with_commas(train_rows), 100 * train_fill, with_commas(validation_rows),
                  100 * validation_fill, records_text(cut_records)));
  return out;
}

}  // namespace axial::data
