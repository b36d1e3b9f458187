// SPDX-License-Identifier: Apache-2.0
// The steps of genome.h in order; each is a unit of its own.
#include "axial/data/genome/genome.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <map>

#include "axial/core/check/check.h"
#include "axial/data/input/input.h"
#include "axial/data/packing/mixture.h"

namespace axial::data {
namespace {

struct OpenedGroup {
  std::vector<std::filesystem::path> files;
  OpenedStore opened;
  double weight = 0;
};

OpenedGroup open_group(const GenomeGroup& group, const Tokenizer& tokenizer, const std::string& cache,
                       GenomeReport& report) {
  OpenedGroup out;
  InputFiles inputs = expand_inputs(group.files);
  for (const std::string& file : inputs.repeated) {
    report.warnings.push_back(fmt::format("file '{}' is named more than once: read once", file));
  }
  out.files = std::move(inputs.files);
  out.opened = open_token_store(out.files, tokenizer, cache);
  out.weight = group.weight;
  const TokenStore& store = *out.opened.store;
  report.files += static_cast<int64_t>(out.files.size());
  report.records += store.num_records();
  report.tokens += store.num_tokens();
  add_counts(report.counts, store.counts());
  if (!out.opened.path.empty()) report.caches.push_back(out.opened.path.string());
  for (const std::string& warning : out.opened.warnings) report.warnings.push_back(warning);
  return out;
}

void warn_of_shared_files(const std::vector<OpenedGroup>& groups, GenomeReport& report) {
  std::map<std::filesystem::path, size_t> owner;
  for (size_t g = 0; g < groups.size(); ++g) {
    for (const auto& file : groups[g].files) {
      std::error_code error;
      const auto [at, fresh] = owner.emplace(std::filesystem::canonical(file, error), g);
      if (!fresh && at->second != g) {
        report.warnings.push_back(
            fmt::format("file '{}' is in more than one group of the data", file.string()));
      }
    }
  }
}

// All records of all groups, one after the other.
struct AllRecords {
  std::vector<RecordRef> refs;
  std::vector<uint64_t> hashes;
  std::vector<int64_t> tokens;
};

AllRecords all_records(const std::vector<OpenedGroup>& groups) {
  AllRecords all;
  for (size_t g = 0; g < groups.size(); ++g) {
    const TokenStore& store = *groups[g].opened.store;
    for (int64_t i = 0; i < store.num_records(); ++i) {
      all.refs.push_back({static_cast<int32_t>(g), i});
      all.hashes.push_back(store.content_hash(i));
      all.tokens.push_back(store.length(i));
    }
  }
  return all;
}

Split split_groups(const std::vector<OpenedGroup>& groups, const AllRecords& all, const Tokenizer& tokenizer,
                   const SplitOptions& options, uint64_t seed) {
  std::vector<int32_t> ids;
  // Bases as the tokens hold them: ambiguous codons are NNN, bases in front of the frame are missing.
  const auto text_of = [&](int64_t record, std::string& text) {
    const RecordRef& ref = all.refs[static_cast<size_t>(record)];
    const TokenStore& store = *groups[static_cast<size_t>(ref.store)].opened.store;
    ids.resize(static_cast<size_t>(store.length(ref.record)));
    store.copy<int32_t>(ref.record, 0, ids);
    text = tokenizer.decode(ids);
  };
  return split_records({all.hashes, all.tokens, text_of, tokenizer.reads_nucleotides()}, options, seed);
}

// The records of a side that have a label to predict; of one group, or of all for group -1.
std::vector<RecordRef> side_of(const AllRecords& all, const Split& split, uint8_t side, int32_t group) {
  std::vector<RecordRef> out;
  for (size_t i = 0; i < all.refs.size(); ++i) {
    if (split.validation[i] != side || all.tokens[i] < 2) continue;
    if (group < 0 || all.refs[i].store == group) out.push_back(all.refs[i]);
  }
  return out;
}

// The last group validates as it was asked to; nothing is drawn.
Split given_split(const AllRecords& all, int32_t validation_group) {
  Split split;
  for (size_t i = 0; i < all.refs.size(); ++i) {
    const bool validates = all.refs[i].store == validation_group;
    split.validation.push_back(validates ? 1 : 0);
    split.report.validation_records += validates ? 1 : 0;
    split.report.validation_tokens += validates ? all.tokens[i] : 0;
  }
  return split;
}

RecordWalk walk_over(std::vector<std::shared_ptr<const TokenStore>> stores, std::vector<RecordRef> records) {
  return [stores = std::move(stores), records = std::move(records)](const auto& on_record) {
    std::vector<int32_t> ids;
    for (const RecordRef& ref : records) {
      const TokenStore& store = *stores[static_cast<size_t>(ref.store)];
      ids.resize(static_cast<size_t>(store.length(ref.record)));
      store.copy<int32_t>(ref.record, 0, ids);
      on_record(ids);
    }
  };
}

std::string content_of(const AllRecords& all, const Split& split) {
  std::vector<uint64_t> words = all.hashes;
  for (size_t i = 0; i < words.size(); ++i) words[i] = words[i] * 2 + split.validation[i];
  return hash_bytes(std::as_bytes(std::span(words)));
}

std::unique_ptr<RowSource> make_train(const std::vector<std::shared_ptr<const TokenStore>>& stores,
                                      std::span<const OpenedGroup> groups, const AllRecords& all,
                                      const Split& split, const PackedSourceOptions& packing,
                                      GenomeReport& report) {
  std::vector<std::unique_ptr<RowSource>> sources;
  std::vector<double> weights;
  for (size_t g = 0; g < groups.size(); ++g) {
    std::vector<RecordRef> records = side_of(all, split, 0, static_cast<int32_t>(g));
    if (records.empty()) {
      report.warnings.push_back(
          fmt::format("group {} of the mixture ('{}', ...) has no training record: left out of the mixture",
                      g + 1, groups[g].files[0].string()));
      continue;
    }
    auto source = std::make_unique<PackedSource>(stores, std::move(records), packing);
    report.cut_records += source->packing().cut_records;
    sources.push_back(std::move(source));
    weights.push_back(groups[g].weight);
  }
  AXIAL_CHECK(!sources.empty(), "genome",
              "no training record with a token to predict; expected records of at least 2 tokens");
  if (sources.size() == 1) return std::move(sources[0]);
  if (weights[0] == 0) weights.clear();  // validate() saw that either all have a weight or none
  return std::make_unique<MixtureSource>(std::move(sources), std::move(weights));
}

double fill_of(const RowSource& source) {
  const auto places = static_cast<double>(source.num_rows()) * static_cast<double>(source.layout().length());
  return static_cast<double>(source.num_tokens()) / places;
}

}  // namespace

void GenomeDataOptions::validate() const {
  AXIAL_CHECK(files.empty() != mixture.empty(), "genome", "inputs; expected either files or mixture, got {}",
              files.empty() ? "none" : "both");
  AXIAL_CHECK(sequence_length >= 2, "genome", "sequence_length; expected at least 2, got {}",
              sequence_length);
  AXIAL_CHECK(stride >= 0 && stride <= sequence_length, "genome",
              "stride; expected 0 (sequence_length) or 1 to sequence_length {}, got {}", sequence_length,
              stride);
  const auto weighted =
      std::count_if(mixture.begin(), mixture.end(), [](const GenomeGroup& g) { return g.weight != 0; });
  AXIAL_CHECK(weighted == 0 || weighted == static_cast<int64_t>(mixture.size()), "genome",
              "weights of the mixture; expected all or none, got {} of {}", weighted, mixture.size());
  for (const GenomeGroup& group : mixture) {
    AXIAL_CHECK(group.weight >= 0, "genome", "weight of a group; expected at least 0, got {}", group.weight);
    AXIAL_CHECK(!group.files.empty(), "genome", "a group of the mixture has no files; expected at least one");
  }
  tokenizer.validate();
  split.validate();
}

GenomeData open_genome_data(const GenomeDataOptions& options, uint64_t seed,
                            const std::optional<parallel::SequenceLayout>& layout) {
  options.validate();
  GenomeData data;
  data.tokenizer = make_tokenizer(options.tokenizer);
  GenomeReport& report = data.report;
  const std::vector<GenomeGroup> wanted =
      options.mixture.empty() ? std::vector<GenomeGroup>{{options.files, 0}} : options.mixture;
  std::vector<OpenedGroup> groups;
  std::vector<std::shared_ptr<const TokenStore>> stores;
  for (const GenomeGroup& group : wanted) {
    groups.push_back(open_group(group, *data.tokenizer, options.cache, report));
    stores.push_back(groups.back().opened.store);
  }
  const size_t num_train = groups.size();
  if (!options.validation_files.empty()) {
    groups.push_back(open_group({options.validation_files, 0}, *data.tokenizer, options.cache, report));
    stores.push_back(groups.back().opened.store);
  }
  warn_of_shared_files(groups, report);
  for (std::string& warning : warnings_of(report.counts, options.tokenizer)) {
    report.warnings.push_back(std::move(warning));
  }
  const AllRecords all = all_records(groups);
  Split split = groups.size() > num_train ? given_split(all, static_cast<int32_t>(num_train))
                                          : split_groups(groups, all, *data.tokenizer, options.split, seed);
  report.content = content_of(all, split);
  data.train_records = walk_over(stores, side_of(all, split, 0, -1));
  data.validation_records = walk_over(stores, side_of(all, split, 1, -1));
  for (const std::string& note : split.report.notes) report.warnings.push_back("split: " + note);

  PackedSourceOptions packing{options.sequence_length, options.stride, true, seed, layout};
  data.train = make_train(stores, std::span(groups).first(num_train), all, split, packing, report);
  report.train_rows = data.train->num_rows();
  report.train_tokens = data.train->num_tokens();
  report.train_fill = fill_of(*data.train);
  if (std::vector<RecordRef> records = side_of(all, split, 1, -1); !records.empty()) {
    packing.shuffle = false;
    auto source = std::make_unique<PackedSource>(stores, std::move(records), packing);
    report.cut_records += source->packing().cut_records;
    report.validation_rows = source->num_rows();
    report.validation_tokens = source->num_tokens();
    report.validation_fill = fill_of(*source);
    data.validation = std::move(source);
  } else if (options.split.validation_fraction > 0) {
    report.warnings.emplace_back("no record validates");
  }
  report.split = std::move(split.report);
  return data;
}

GenomeRecords::GenomeRecords(std::vector<std::string> files, OpenedStore opened,
                             std::shared_ptr<const Tokenizer> tokenizer, GenomeReport report)
    : files_(std::move(files)),
      opened_(std::move(opened)),
      tokenizer_(std::move(tokenizer)),
      report_(std::move(report)) {}

GenomeRecord GenomeRecords::record(int64_t index) const {
  const TokenStore& store = *opened_.store;
  GenomeRecord out{std::string(store.name(index)), files_.at(static_cast<size_t>(store.file(index))), {}};
  out.tokens.resize(static_cast<size_t>(store.length(index)));
  store.copy<int64_t>(index, 0, out.tokens);
  return out;
}

GenomeRecords open_genome_records(const std::vector<std::string>& files, const TokenizerOptions& options,
                                  const std::string& cache) {
  std::shared_ptr<const Tokenizer> tokenizer = make_tokenizer(options);
  GenomeReport report;
  OpenedGroup group = open_group({files, 0}, *tokenizer, cache, report);
  for (std::string& warning : warnings_of(report.counts, options))
    report.warnings.push_back(std::move(warning));
  std::vector<std::string> names;
  for (const auto& file : group.files) names.push_back(file.string());
  return {std::move(names), std::move(group.opened), std::move(tokenizer), std::move(report)};
}

}  // namespace axial::data
