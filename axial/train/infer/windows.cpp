// SPDX-License-Identifier: Apache-2.0
// Cutting, packing and running of windows. A window after the first keeps `overlap` tokens of context, so
// that no token is predicted from almost nothing.
#include "axial/train/infer/windows.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "axial/core/check/check.h"

namespace axial::train {
namespace {

constexpr std::string_view kOp = "infer";
constexpr int64_t kIgnored = -100;

std::vector<parallel::Block> blocks_of(const models::Model& model, const std::string& head) {
  return head.empty() ? model.trunk : model.blocks_with(head);
}

}  // namespace

int64_t max_positions_of(const models::Model& model, int64_t otherwise) {
  const auto it = model.config.find("max_positions");
  return it != model.config.end() && it->is_number_integer() ? it->get<int64_t>() : otherwise;
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

parallel::NamedTensors pack_pieces(const std::vector<PackedPiece>& pieces) {
  int64_t total = 0;
  for (const PackedPiece& piece : pieces) total += static_cast<int64_t>(piece.ids.size());
  const auto options = at::TensorOptions(at::kLong);
  at::Tensor tokens = at::empty({1, total}, options);
  at::Tensor labels = at::full({1, total}, kIgnored, options);
  at::Tensor positions = at::empty({1, total}, options);
  at::Tensor starts = at::empty({1, total}, options);
  at::Tensor segments = at::empty({static_cast<int64_t>(pieces.size()) + 1}, options);
  auto* token = tokens.mutable_data_ptr<int64_t>();
  auto* label = labels.mutable_data_ptr<int64_t>();
  auto* position = positions.mutable_data_ptr<int64_t>();
  auto* start = starts.mutable_data_ptr<int64_t>();
  auto* border = segments.mutable_data_ptr<int64_t>();
  int64_t at = 0;
  for (size_t p = 0; p < pieces.size(); ++p) {
    const auto& ids = pieces[p].ids;
    border[p] = at;
    for (size_t i = 0; i < ids.size(); ++i, ++at) {
      token[at] = ids[i];
      position[at] = static_cast<int64_t>(i);
      start[at] = border[p];
      const bool counts = i + 1 < ids.size() && static_cast<int64_t>(i + 1) >= pieces[p].context;
      if (counts) label[at] = ids[i + 1];
    }
  }
  border[pieces.size()] = at;
  return {{"tokens", tokens},
          {"labels", labels},
          {"positions", positions},
          {"segments", segments},
          {"sample_ids", at::zeros({1}, options)},
          {"row_positions", at::arange(total, options)},
          {"record_starts", starts}};
}

WindowRunner::WindowRunner(models::Model& model, const std::string& head, std::string wanted,
                           const WindowOptions& options, OnWindow on_window)
    : runner_(blocks_of(model, head), *model.parameters, model.batch_names),
      wanted_(std::move(wanted)),
      on_window_(std::move(on_window)),
      batch_tokens_(options.batch_tokens),
      on_tokens_(options.on_tokens) {
  const int64_t longest = max_positions_of(model, 2048);
  window_ = options.window == 0 ? longest : options.window;
  AXIAL_CHECK(window_ >= 2 && window_ <= longest, kOp, "window; expected 2 to {} tokens, got {}", longest,
              window_);
  overlap_ = options.overlap < 0 ? window_ / 2 : options.overlap;
  AXIAL_CHECK(overlap_ >= 1 && overlap_ < window_, kOp, "overlap; expected 1 to {} tokens, got {}",
              window_ - 1, overlap_);
  AXIAL_CHECK(batch_tokens_ > 0, kOp, "batch_tokens; expected a positive number, got {}", batch_tokens_);
}

void WindowRunner::add(int64_t record, std::vector<int32_t> ids) {
  const auto tokens = static_cast<int64_t>(ids.size());
  AXIAL_CHECK(tokens > 0, kOp, "record {} has no tokens", record);
  const std::vector<Window> windows = cut_windows(tokens, window_, overlap_);
  for (const Window& window : windows) {
    if (!queue_.empty() && queued_tokens_ + window.length > batch_tokens_) run();
    const auto first = ids.begin() + window.begin;
    queue_.push_back({record, window, {first, first + window.length}, window == windows.back()});
    queued_tokens_ += window.length;
  }
}

void WindowRunner::finish() {
  if (!queue_.empty()) run();
}

void WindowRunner::run() {
  std::vector<PackedPiece> pieces;
  for (const Item& item : queue_) pieces.push_back({item.ids, item.window.context});
  const parallel::NamedTensors out = runner_.infer(pack_pieces(pieces), parallel::StepContext{}, {wanted_});
  const at::Tensor rows = out.at(wanted_).flatten(0, 1);
  int64_t first = 0, counted = 0;
  for (const Item& item : queue_) {
    on_window_(item.record, item.window, rows, first, item.last);
    first += item.window.length;
    counted += item.window.length - item.window.context;
  }
  if (on_tokens_) on_tokens_(counted);
  queue_.clear();
  queued_tokens_ = 0;
}

}  // namespace axial::train
