// SPDX-License-Identifier: Apache-2.0
// Names -> versions, in one pass over the blocks.
#include "axial/parallel/step/stream.h"

#include <algorithm>
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

// A block without a token part is its forward; with one, what the part reads and writes is the block's.
void check_functions(const Block& block) {
  if (!block.tokens) {
    AXIAL_CHECK(block.forward != nullptr, kOp, "block '{}' has no forward function", block.name);
    AXIAL_CHECK(block.between.empty(), kOp,
                "block '{}' has no token part; expected nothing between, got '{}'", block.name,
                block.between.front());
    return;
  }
  const TokenPart& part = *block.tokens;
  AXIAL_CHECK(part.forward != nullptr, kOp, "token part of block '{}' has no forward function", block.name);
  AXIAL_CHECK(block.forward != nullptr || block.between.empty(), kOp,
              "block '{}' has no forward function; expected one that gives '{}'", block.name,
              fmt::join(block.between, "', '"));
  std::vector<std::string> readable = block.inputs;
  readable.insert(readable.end(), block.between.begin(), block.between.end());
  check_distinct(readable, fmt::format("inputs of the token part of block '{}'", block.name));
  for (const auto& [name, how] : part.reads) {
    AXIAL_CHECK(
        std::find(readable.begin(), readable.end(), name) != readable.end() && how != Positions::kSum, kOp,
        "token part of block '{}' reads '{}'; expected an input of the block or what its forward gives ({})",
        block.name, name, fmt::join(readable, ", "));
  }
  for (const std::string& name : block.outputs) {
    const auto found = part.writes.find(name);
    AXIAL_CHECK(found != part.writes.end() && found->second != Positions::kNone, kOp,
                "token part of block '{}'; expected it to write '{}' over positions or as a sum", block.name,
                name);
  }
  AXIAL_CHECK(part.writes.size() == block.outputs.size(), kOp,
              "token part of block '{}' writes {} tensors; expected the block's outputs ({})", block.name,
              part.writes.size(), fmt::join(block.outputs, ", "));
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
    check_functions(block);
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
