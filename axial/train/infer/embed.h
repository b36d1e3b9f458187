// SPDX-License-Identifier: Apache-2.0
// One vector per record: the mean of the last hidden state over its tokens, CLS and SEP left out.
// `axial embed` writes them.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "axial/train/infer/windows.h"

namespace axial::train {

/// Embeds records in the order they are added. Begin and end tokens are run but not averaged (a record of
/// nothing else is averaged over them). Every token counts once, from the window that gives it the most
/// context on its left, so windows weigh by their tokens. Sums are kept in double.
class Embedder {
 public:
  /// C values per record.
  using OnEmbedding = std::function<void(const std::string& id, std::span<const float> embedding)>;
  /// `left_out`: ids that are not averaged. `ranks`: as WindowRunner has it; all are told all embeddings.
  Embedder(const models::Model& model, const WindowOptions& options, std::vector<int32_t> left_out,
           OnEmbedding on_embedding, parallel::Communicator* ranks = nullptr);

  void add(std::string id, std::vector<int32_t> ids);
  void finish() { windows_.finish(); }

 private:
  struct Open {
    std::string id;
    std::vector<int64_t> averaged;  // 1 or 0 per token
    at::Tensor sum;                 // [C] double
    int64_t count = 0;
  };
  void take(int64_t record, const Window& window, const at::Tensor& rows, int64_t first, bool last);

  std::deque<Open> open_;
  int64_t next_ = 0;
  int64_t first_open_ = 0;
  std::vector<int32_t> left_out_;
  OnEmbedding on_embedding_;
  WindowRunner windows_;
};

}  // namespace axial::train
