// SPDX-License-Identifier: Apache-2.0
// Records of any length through a model of bounded length: overlapping windows, packed without padding.
// score and embed share it.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "axial/models/common/registry.h"
#include "axial/parallel/layout/sequence_layout.h"
#include "axial/parallel/step/runner.h"

namespace axial::train {

/// How records are cut and batched.
struct WindowOptions {
  int64_t window = 0;           ///< tokens per window; 0: the model's max_positions
  int64_t overlap = -1;         ///< tokens a window shares with the one before, at least 1; -1: half a window
  int64_t batch_tokens = 8192;  ///< windows are run together up to this many tokens, at least one window
  int64_t tile_tokens = 8192;   ///< MemoryPolicy::tile_tokens; 0: over all at once
  std::function<void(int64_t)> on_tokens = nullptr;  ///< optional: tokens counted since the last call
  /// Optional: told after every action of a batch, and how many that has.
  std::function<void(int64_t done, int64_t total)> on_action = nullptr;
  at::Device device = at::kCPU;  ///< where the model is; on Meta all runs without data, and results are none
};

/// A piece of one record. Tokens [0, context) were counted by the window before and serve as context only.
struct Window {
  int64_t begin = 0;
  int64_t length = 0;
  int64_t context = 0;

  friend bool operator==(const Window&, const Window&) = default;
};

/// Windows of a record of `tokens` tokens: every token is outside of the context of exactly one.
std::vector<Window> cut_windows(int64_t tokens, int64_t window, int64_t overlap);

/// Runs windows of many records through blocks, in the order of the records.
class WindowRunner {
 public:
  /// What the windows of a batch gave: `output` is the wanted tensor, its rows flattened to [T, ...];
  /// `first` is the row of the window's first token.
  using OnWindow = std::function<void(int64_t record, const Window& window, const at::Tensor& output,
                                      int64_t first, bool last_of_record)>;

  /// Run `model`'s trunk followed by `head` ("" : trunk alone) and hand over tensor `wanted`. The model must
  /// outlive it, and the `ranks` that it is split over: all of them add the same records and are handed all
  /// results. Batches are shared out along data; rows are split along ring and ulysses. Throws ValueError for
  /// options that contradict each other.
  WindowRunner(const models::Model& model, const std::string& head, std::string wanted,
               const WindowOptions& options, OnWindow on_window, parallel::Communicator* ranks = nullptr);

  /// Queue a record with at least one token; runs a batch whenever one is full.
  void add(int64_t record, std::vector<int32_t> ids);
  /// Run what is left.
  void finish();

  int64_t window() const { return window_; }

 private:
  struct Item {
    int64_t record = 0;
    Window window;
    std::vector<int32_t> ids;
    bool last = false;
  };
  struct Batch {
    std::vector<Item> items;
    int64_t tokens = 0;
  };
  void close_batch();
  void run();
  at::Tensor infer(const Batch& batch);
  parallel::NamedTensors tensors_of(const Batch& batch, const parallel::SequenceLayout& layout) const;

  parallel::StepRunner runner_;
  std::string wanted_;
  OnWindow on_window_;
  int64_t window_ = 0;
  int64_t overlap_ = 0;
  int64_t batch_tokens_ = 0;
  std::function<void(int64_t)> on_tokens_;
  at::Device device_ = at::kCPU;
  Batch open_;
  std::vector<Batch> closed_;  // one per rank of data, then they run
};

/// One row [1, T] of packed pieces as batch tensors (see data::Batch): each piece is a segment with positions
/// from 0 and labels shifted inside it; the first `context` tokens of a piece are no one's label.
struct PackedPiece {
  std::span<const int32_t> ids;
  int64_t context = 0;
};
/// This rank's part of the row, where several share it.
parallel::NamedTensors pack_pieces(const std::vector<PackedPiece>& pieces,
                                   const parallel::SequenceLayout& layout);

/// The longest input that a model was made for: "max_positions" of its config, or `otherwise`.
int64_t max_positions_of(const models::Model& model, int64_t otherwise);

/// The longest input that a model can take: that, but any where positions are told by ALiBi or rotations.
int64_t longest_input_of(const models::Model& model, int64_t otherwise);

/// Throw ValueError for inputs of more tokens than the model can take; warn of more than it was made for
/// unless it has ALiBi, which is.
void check_input_length(const models::Model& model, int64_t tokens);

}  // namespace axial::train
