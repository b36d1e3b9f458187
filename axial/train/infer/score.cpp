// SPDX-License-Identifier: Apache-2.0
// Sums the head's per-token log-likelihoods in double.
#include "axial/train/infer/score.h"

#include <ATen/ATen.h>

#include "axial/parallel/host_value/host_value.h"

namespace axial::train {

Scorer::Scorer(const models::Model& model, const WindowOptions& options, OnScore on_score,
               parallel::Communicator* ranks)
    : on_score_(std::move(on_score)),
      windows_(
          model, "log_likelihood", "log_likelihood", options,
          [this](int64_t record, const Window& window, const at::Tensor& rows, int64_t first, bool last) {
            Score& score = open_.at(static_cast<size_t>(record - first_open_));
            // Position i predicts token i + 1; labels inside the context are off and give 0.
            score.log_likelihood +=
                parallel::host_value(rows.narrow(0, first, window.length).to(at::kDouble).sum(), 0);
            if (!last) return;
            on_score_(score);
            open_.pop_front();
            ++first_open_;
          },
          ranks) {}

void Scorer::add(std::string id, std::vector<int32_t> ids) {
  open_.push_back({std::move(id), static_cast<int64_t>(ids.size()) - 1, 0.0});
  windows_.add(next_++, std::move(ids));
}

}  // namespace axial::train
