// SPDX-License-Identifier: Apache-2.0
// Cutting, packing and running of windows. A window after the first keeps `overlap` tokens of context, so
// that no token is predicted from almost nothing.
#include "axial/train/infer/windows.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "axial/core/check/check.h"
#include "axial/core/log/log.h"
#include "axial/ops/common/memory_count.h"
#include "axial/parallel/collectives/rows.h"

namespace axial::train {
namespace {

constexpr std::string_view kOp = "infer";

}  // namespace

int64_t max_positions_of(const models::Model& model, int64_t otherwise) {
  const auto it = model.config.find("max_positions");
  return it != model.config.end() && it->is_number_integer() ? it->get<int64_t>() : otherwise;
}

int64_t longest_input_of(const models::Model& model, int64_t otherwise) {
  const std::string position = model.config.value("position", "");
  if (position == "alibi" || position == "rotary") return std::numeric_limits<int64_t>::max();
  return max_positions_of(model, otherwise);
}

void check_input_length(const models::Model& model, int64_t tokens) {
  const int64_t made_for = max_positions_of(model, tokens), longest = longest_input_of(model, tokens);
  AXIAL_CHECK(tokens <= longest, kOp,
              "rows of {} tokens; expected at most the {} positions that the model has learned", tokens,
              longest);
  if (tokens > made_for && model.config.value("position", "") != "alibi") {
    log()->warn(
        "rows of {} tokens are longer than the {} that the model was made for, and its positions "
        "are rotations that it has not met",
        tokens, made_for);
  }
}

std::vector<Window> cut_windows(int64_t tokens, int64_t window, int64_t overlap) {
  AXIAL_CHECK(window >= 2 && overlap >= 0 && overlap < window, kOp,
              "expected a window of at least 2 tokens and an overlap below it, got {} and {}", window,
              overlap);
  std::vector<Window> out;
  if (tokens <= 0) return out;
  out.push_back({0, std::min(tokens, window), 0});
  for (int64_t done = out.back().length; done < tokens;) {
    const int64_t length = std::min(window, tokens - done + overlap);
    out.push_back({done - overlap, length, overlap});
    done += length - overlap;
  }
  return out;
}

parallel::NamedTensors pack_pieces(const std::vector<PackedPiece>& pieces,
                                   const parallel::SequenceLayout& layout) {
  parallel::PackedRow row;
  std::vector<bool> counts;  // whether the label at a place is wanted
  for (const PackedPiece& piece : pieces) {
    row.record_starts.push_back(static_cast<int64_t>(row.tokens.size()));
    row.tokens.insert(row.tokens.end(), piece.ids.begin(), piece.ids.end());
    for (size_t i = 0; i < piece.ids.size(); ++i)
      counts.push_back(static_cast<int64_t>(i + 1) >= piece.context);
  }
  parallel::NamedTensors batch = layout.make_batch({row}, 0);
  const at::Tensor& places = batch.at("row_positions");
  int64_t* labels = batch.at("labels").mutable_data_ptr<int64_t>();
  for (int64_t l = 0; l < places.numel(); ++l) {
    if (!counts[static_cast<size_t>(places.const_data_ptr<int64_t>()[l])])
      labels[l] = parallel::kIgnoredLabel;
  }
  return batch;
}

WindowRunner::WindowRunner(const models::Model& model, const std::string& head, std::string wanted,
                           const WindowOptions& options, OnWindow on_window, parallel::Communicator* ranks)
    : runner_(model.runner_with(head, ranks)),
      wanted_(std::move(wanted)),
      on_window_(std::move(on_window)),
      batch_tokens_(options.batch_tokens),
      on_tokens_(options.on_tokens),
      device_(options.device) {
  window_ = options.window == 0 ? max_positions_of(model, 2048) : options.window;
  AXIAL_CHECK(window_ >= 2, kOp, "window; expected at least 2 tokens, got {}", window_);
  check_input_length(model, window_);
  overlap_ = options.overlap < 0 ? window_ / 2 : options.overlap;
  AXIAL_CHECK(overlap_ >= 1 && overlap_ < window_, kOp, "overlap; expected 1 to {} tokens, got {}",
              window_ - 1, overlap_);
  AXIAL_CHECK(batch_tokens_ > 0, kOp, "batch_tokens; expected a positive number, got {}", batch_tokens_);
  AXIAL_CHECK(options.tile_tokens >= 0, kOp, "tile_tokens; expected at least 0, got {}", options.tile_tokens);
  runner_.set_inference_tiles(options.tile_tokens);
  if (!options.on_action) return;
  runner_.set_trace([told = options.on_action, done = int64_t{0}](
                        const parallel::StepPlan& plan, const parallel::Action&, double, double) mutable {
    told(++done, static_cast<int64_t>(plan.actions.size()));
  });
}

void WindowRunner::add(int64_t record, std::vector<int32_t> ids) {
  const auto tokens = static_cast<int64_t>(ids.size());
  AXIAL_CHECK(tokens > 0, kOp, "record {} has no tokens", record);
  const std::vector<Window> windows = cut_windows(tokens, window_, overlap_);
  for (const Window& window : windows) {
    if (open_.tokens + window.length > batch_tokens_) close_batch();
    const auto first = ids.begin() + window.begin;
    open_.items.push_back({record, window, {first, first + window.length}, window == windows.back()});
    open_.tokens += window.length;
  }
}

void WindowRunner::finish() {
  close_batch();
  if (!closed_.empty()) run();
}

void WindowRunner::close_batch() {
  if (open_.items.empty()) return;
  closed_.push_back(std::exchange(open_, {}));
  if (static_cast<int64_t>(closed_.size()) == runner_.communicator().mesh().group_size({"data"})) run();
}

parallel::NamedTensors WindowRunner::tensors_of(const Batch& batch,
                                                const parallel::SequenceLayout& layout) const {
  std::vector<PackedPiece> pieces;
  for (const Item& item : batch.items) pieces.push_back({item.ids, item.window.context});
  if (device_.is_cpu()) return pack_pieces(pieces, layout);
  parallel::NamedTensors tensors;
  {
    const ops::MemoryPause of_the_host;  // a plan counts the device
    tensors = pack_pieces(pieces, layout);
  }
  for (auto& [name, tensor] : tensors) tensor = tensor.to(device_);
  return tensors;
}

// The wanted tensor of a batch, its rows flattened to [T, ...].
at::Tensor WindowRunner::infer(const Batch& batch) {
  parallel::Communicator& ranks = runner_.communicator();
  const bool shared = ranks.mesh().group_size(ranks.mesh().sequence_axes()) > 1;
  const auto layout = shared ? parallel::SequenceLayout::over(ranks.mesh(), batch.tokens)
                             : parallel::SequenceLayout::whole(batch.tokens);
  parallel::StepContext context;
  if (shared) context.sequence = &layout;
  at::Tensor out = runner_.infer(tensors_of(batch, layout), context, {wanted_}).at(wanted_);
  if (shared) out = parallel::whole_rows(out, 1, layout, ranks);
  return out.flatten(0, 1);
}

void WindowRunner::run() {
  parallel::Communicator& ranks = runner_.communicator();
  const parallel::Axes data{"data"};
  const auto place = static_cast<size_t>(ranks.mesh().group_rank(data, ranks.mesh().rank()));
  // A rank without a batch goes through one all the same: others may meet it in a block.
  at::Tensor own = infer(closed_[std::min(place, closed_.size() - 1)]);
  if (place >= closed_.size()) own = own.narrow(0, 0, 0);
  parallel::Sizes sizes(static_cast<size_t>(ranks.mesh().group_size(data)), 0);
  for (size_t b = 0; b < closed_.size(); ++b) sizes[b] = closed_[b].tokens;
  const at::Tensor rows = ranks.all_gather(own, 0, data, sizes);
  int64_t first = 0, counted = 0;
  for (const Batch& batch : closed_) {
    for (const Item& item : batch.items) {
      on_window_(item.record, item.window, rows, first, item.last);
      first += item.window.length;
      counted += item.window.length - item.window.context;
    }
  }
  if (on_tokens_) on_tokens_(counted);
  closed_.clear();
}

}  // namespace axial::train
