// SPDX-License-Identifier: Apache-2.0
// Masked means of hidden states, window by window.
#include "axial/train/infer/embed.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace axial::train {

Embedder::Embedder(const models::Model& model, const WindowOptions& options, std::vector<int32_t> left_out,
                   OnEmbedding on_embedding, parallel::Communicator* ranks)
    : left_out_(std::move(left_out)),
      on_embedding_(std::move(on_embedding)),
      windows_(
          model, "", "hidden", options,
          [this](int64_t record, const Window& window, const at::Tensor& rows, int64_t first, bool last) {
            take(record, window, rows, first, last);
          },
          ranks) {}

void Embedder::add(std::string id, std::vector<int32_t> ids) {
  Open open;
  open.id = std::move(id);
  for (const int32_t token : ids) {
    const bool special = std::find(left_out_.begin(), left_out_.end(), token) != left_out_.end();
    open.averaged.push_back(special ? 0 : 1);
    open.count += special ? 0 : 1;
  }
  if (open.count == 0) {
    open.averaged.assign(ids.size(), 1);
    open.count = static_cast<int64_t>(ids.size());
  }
  open_.push_back(std::move(open));
  windows_.add(next_++, std::move(ids));
}

void Embedder::take(int64_t record, const Window& window, const at::Tensor& rows, int64_t first, bool last) {
  Open& open = open_.at(static_cast<size_t>(record - first_open_));
  const int64_t fresh = window.length - window.context;
  const at::Tensor hidden = rows.narrow(0, first + window.context, fresh).to(at::kDouble);
  const at::Tensor mask = at::from_blob(open.averaged.data() + window.begin + window.context, {fresh, 1},
                                        at::TensorOptions(at::kLong))
                              .to(hidden.device());
  const at::Tensor sum = (hidden * mask.to(at::kDouble)).sum(0);
  open.sum = open.sum.defined() ? open.sum + sum : sum;
  if (!last) return;
  const at::Tensor mean = (open.sum / static_cast<double>(open.count)).to(at::kFloat).contiguous();
  if (!mean.is_meta()) {
    const at::Tensor host = mean.cpu();
    on_embedding_(open.id, {host.const_data_ptr<float>(), static_cast<size_t>(host.numel())});
  }
  open_.pop_front();
  ++first_open_;
}

}  // namespace axial::train
