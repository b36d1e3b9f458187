// SPDX-License-Identifier: Apache-2.0
// Names -> versions, in one pass over the blocks.
#include "axial/parallel/step/stream.h"

#include <set>

#include "axial/core/check/check.h"
#include "axial/core/text/text.h"

namespace axial::parallel {

namespace {

constexpr const char* kOp = "runner";

void check_distinct(const std::vector<std::string>& names, const std::string& what) {
  std::set<std::string> seen;
  for (const std::string& name : names) {
    AXIAL_CHECK(seen.insert(name).second, kOp, "{}; expected distinct names, got '{}' twice", what, name);
  }
}

}  // namespace

Stream build_stream(const std::vector<Block>& blocks, const std::vector<std::string>& batch_names) {
  AXIAL_CHECK(!blocks.empty(), kOp, "blocks to run; expected at least 1, got 0");
  std::vector<std::string> block_names;
  for (const Block& block : blocks) block_names.push_back(block.name);
  check_distinct(block_names, "blocks");
  check_distinct(batch_names, "tensors of a batch");
  Stream stream;
  for (const std::string& name : batch_names) {
    stream.last[name] = static_cast<int64_t>(stream.values.size());
    stream.values.push_back({.name = name});
  }
  for (size_t b = 0; b < blocks.size(); ++b) {
    const Block& block = blocks[b];
    AXIAL_CHECK(block.forward != nullptr, kOp, "block '{}' has no forward function", block.name);
    check_distinct(block.inputs, fmt::format("inputs of block '{}'", block.name));
    check_distinct(block.outputs, fmt::format("outputs of block '{}'", block.name));
    bool needs_gradient = !block.parameters.empty();
    stream.reads.emplace_back();
    for (const std::string& name : block.inputs) {
      const auto found = stream.last.find(name);
      if (found == stream.last.end()) {
        std::vector<std::string> known;
        for (const auto& [other, unused] : stream.last) known.push_back(other);
        fail(kOp, "block '{}' reads '{}'; expected a tensor of the batch or of an earlier block ({}){}",
             block.name, name, fmt::join(known, ", "), did_you_mean(name, known));
      }
      stream.reads.back().push_back(found->second);
      stream.values[static_cast<size_t>(found->second)].is_read = true;
      needs_gradient |= stream.values[static_cast<size_t>(found->second)].needs_gradient;
    }
    stream.writes.emplace_back();
    for (const std::string& name : block.outputs) {
      stream.last[name] = static_cast<int64_t>(stream.values.size());
      stream.writes.back().push_back(stream.last[name]);
      stream.values.push_back(
          {.name = name, .producer = static_cast<int64_t>(b), .needs_gradient = needs_gradient});
    }
  }
  return stream;
}

std::vector<int64_t> versions_across(const Stream& stream, int64_t border) {
  std::set<int64_t> across;
  for (size_t b = static_cast<size_t>(border); b < stream.reads.size(); ++b) {
    for (const int64_t v : stream.reads[b]) {
      const int64_t producer = stream.values[static_cast<size_t>(v)].producer;
      if (producer != kFromBatch && producer < border) across.insert(v);
    }
  }
  return {across.begin(), across.end()};
}

}  // namespace axial::parallel
