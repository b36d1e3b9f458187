// SPDX-License-Identifier: Apache-2.0
// Trees, FASTA files and the sidecar of simulate.h.
#include "axial/data/simulate/simulate.h"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>

#include "axial/core/check/check.h"
#include "axial/core/file/atomic_writer.h"
#include "axial/core/recipe/recipe.h"

namespace axial::data {
namespace {

constexpr std::string_view kFormat = "axial-simulated-genomes";

/// A FASTA file, plain or one gzip member.
class FastaWriter {
 public:
  FastaWriter(const std::filesystem::path& path, bool gzip) : out_(path), gzip_(gzip) {
    if (!gzip_) return;
    const int code = deflateInit2(&stream_, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
    if (code != Z_OK) fail<IoError>("simulate", "zlib cannot start (code {})", code);
  }
  FastaWriter(const FastaWriter&) = delete;
  FastaWriter& operator=(const FastaWriter&) = delete;
  ~FastaWriter() {
    if (gzip_) deflateEnd(&stream_);
  }
  void write(const std::string& header, std::string_view sequence) {
    constexpr size_t kWidth = 60;
    std::string text = ">" + header + "\n";
    for (size_t i = 0; i < sequence.size(); i += kWidth)
      text.append(sequence.substr(i, kWidth)).push_back('\n');
    put(text, Z_NO_FLUSH);
  }
  void commit() {
    put("", Z_FINISH);
    out_.commit();
  }

 private:
  void put(std::string_view text, int flush) {
    if (!gzip_) {
      out_.write(text);
      return;
    }
    std::array<char, 1 << 16> buffer;
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
    stream_.avail_in = static_cast<uInt>(text.size());
    do {
      stream_.next_out = reinterpret_cast<Bytef*>(buffer.data());
      stream_.avail_out = static_cast<uInt>(buffer.size());
      deflate(&stream_, flush);
      out_.write(std::string_view(buffer.data(), buffer.size() - stream_.avail_out));
    } while (stream_.avail_out == 0);
  }

  AtomicWriter out_;
  bool gzip_;
  z_stream stream_{};
};

struct Node {
  double age = 0;  // 0 today, growing into the past
  int64_t left = -1, right = -1;
};

/// Kingman's coalescent of n leaves (nodes 0 .. n - 1; the root is last), scaled to age 1 at the root.
std::vector<Node> random_tree(int64_t leaves, RngKey key) {
  std::vector<Node> nodes(static_cast<size_t>(leaves));
  std::vector<int64_t> alive;
  for (int64_t i = 0; i < leaves; ++i) alive.push_back(i);
  double age = 0;
  for (uint64_t index = 0; alive.size() > 1; index += 3) {
    const auto k = static_cast<double>(alive.size());
    age -= std::log1p(-random_uniform(key, index)) / (k * (k - 1) / 2);
    Node parent{age};
    for (int64_t* child : {&parent.left, &parent.right}) {
      const uint64_t draw = index + (child == &parent.left ? 1 : 2);
      const auto at = static_cast<std::ptrdiff_t>(random_below(key, draw, alive.size()));
      *child = alive[static_cast<size_t>(at)];
      alive.erase(alive.begin() + at);
    }
    alive.push_back(static_cast<int64_t>(nodes.size()));
    nodes.push_back(parent);
  }
  for (Node& node : nodes) node.age /= age > 0 ? age : 1.0;
  return nodes;
}

double codon_identity(const std::vector<Gene>& family) {
  double sum = 0;
  int64_t pairs = 0;
  for (size_t i = 0; i < family.size(); ++i) {
    for (size_t j = 0; j < i; ++j, ++pairs) {
      const auto& a = family[i].codons;
      const auto& b = family[j].codons;
      int64_t equal = 0;
      for (size_t c = 0; c < a.size(); ++c) equal += a[c] == b[c] ? 1 : 0;
      sum += static_cast<double>(equal) / static_cast<double>(a.size());
    }
  }
  return pairs > 0 ? sum / static_cast<double>(pairs) : 1.0;
}

/// Writes the families [first, first + count) and judges them.
SimulatedSet write_set(const CodonProcess& process, const SimulateOptions& options, int64_t first,
                       int64_t count, const std::filesystem::path& path,
                       const std::function<void(int64_t)>& on_family) {
  FastaWriter out(path, options.gzip);
  SimulatedSet set;
  set.path = path;
  double total = 0, identity = 0;
  std::vector<std::pair<double, int64_t>> families;  // nats, tokens
  for (int64_t family = first; family < first + count; ++family) {
    const std::vector<Gene> genes = simulate_family(process, options, family);
    double nats = 0;
    int64_t tokens = 0;
    for (size_t m = 0; m < genes.size(); ++m) {
      for (const double token : process.token_nats(genes[m].codons)) nats += token;
      tokens += static_cast<int64_t>(genes[m].codons.size()) + 1;
      out.write(fmt::format("simulated_f{:06}_m{:02} simulated coding sequence, not from any organism; "
                            "seed={} family={} member={} class={}",
                            family, m, options.seed, family, m, genes[m].usage_class),
                CodonProcess::text(genes[m].codons));
    }
    set.records += static_cast<int64_t>(genes.size());
    set.tokens += tokens;
    total += nats;
    identity += codon_identity(genes);
    families.emplace_back(nats, tokens);
    if (on_family) on_family(family + 1);
  }
  out.commit();
  set.nats = total / static_cast<double>(set.tokens);
  set.perplexity = std::exp(set.nats);
  set.identity = identity / static_cast<double>(count);
  double squares = 0;
  for (const auto& [nats, tokens] : families)
    squares += std::pow(nats - set.nats * static_cast<double>(tokens), 2);
  set.standard_error = std::sqrt(squares) / static_cast<double>(set.tokens);
  return set;
}

nlohmann::ordered_json json_of(const SimulatedSet& set) {
  return {{"file", set.path.filename().string()},
          {"records", set.records},
          {"predicted_tokens", set.tokens},
          {"true_nats_per_token", set.nats},
          {"true_perplexity", set.perplexity},
          {"standard_error_nats", set.standard_error},
          {"codon_identity_within_families", set.identity}};
}

}  // namespace

void SimulateOptions::validate() const {
  AXIAL_CHECK(train_families >= 1 && validation_families >= 1, "simulate",
              "{} training and {} validation families; expected at least 1 of both", train_families,
              validation_families);
  AXIAL_CHECK(members >= 1 && members <= 1000, "simulate", "members {}; expected 1 to 1000", members);
  AXIAL_CHECK(tree_depth >= 0 && tree_depth <= 1000, "simulate", "tree_depth {}; expected 0 to 1000",
              tree_depth);
  AXIAL_CHECK(kappa > 0 && kappa <= 1000, "simulate", "kappa {}; expected above 0, at most 1000", kappa);
}

std::vector<Gene> simulate_family(const CodonProcess& process, const SimulateOptions& options,
                                  int64_t family) {
  const RngKey key =
      root_key(static_cast<uint64_t>(options.seed)).child("family").child(static_cast<uint64_t>(family));
  const std::vector<Node> nodes = random_tree(options.members, key.child("tree"));
  std::vector<Gene> genes(nodes.size());
  genes.back() = process.sample(key.child("root"));
  for (size_t i = nodes.size(); i-- > 0;) {
    for (const int64_t child : {nodes[i].left, nodes[i].right}) {
      if (child < 0) continue;
      Gene& gene = genes[static_cast<size_t>(child)];
      gene = genes[i];
      const double branch = nodes[i].age - nodes[static_cast<size_t>(child)].age;
      process.evolve(gene, branch * options.tree_depth, options.kappa,
                     key.child("branch").child(static_cast<uint64_t>(child)));
    }
  }
  genes.resize(static_cast<size_t>(options.members));
  return genes;
}

Simulation simulate_genomes(const SimulateOptions& options, const std::filesystem::path& prefix,
                            const std::function<void(int64_t)>& on_family) {
  options.validate();
  const CodonProcess process(options.process);
  const auto file = [&](const char* end) { return std::filesystem::path(prefix.string() + end); };
  Simulation result;
  result.train = write_set(process, options, 0, options.train_families,
                           file(options.gzip ? ".train.fasta.gz" : ".train.fasta"), on_family);
  result.validation = write_set(process, options, options.train_families, options.validation_families,
                                file(options.gzip ? ".validation.fasta.gz" : ".validation.fasta"), on_family);
  result.sidecar = file(".json");
  nlohmann::ordered_json json;
  json["format"] = kFormat;
  json["version"] = 1;
  json["note"] =
      "Simulated sequences. true_* is the exact predictive law of the process on the records of the file: no "
      "model that reads one record at a time has a lower perplexity in expectation on the validation file.";
  json["options"] = recipe::options_to_json(options);
  json["train"] = json_of(result.train);
  json["validation"] = json_of(result.validation);
  write_file_atomically(result.sidecar, json.dump(2) + "\n");
  return result;
}

CodonProcess load_process(const std::filesystem::path& sidecar) {
  const auto json = nlohmann::json::parse(read_file(sidecar), nullptr, /*allow_exceptions=*/false);
  AXIAL_CHECK(json.is_object() && json.contains("options") && json.value("format", "") == kFormat &&
                  json.value("version", 0) == 1,
              "simulate", "'{}' is no sidecar of simulated genomes; expected JSON of format {} version 1",
              sidecar.string(), kFormat);
  return CodonProcess(recipe::parse<SimulateOptions>(json["options"]).process);
}

}  // namespace axial::data
