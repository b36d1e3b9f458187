// SPDX-License-Identifier: Apache-2.0
// Lengths first, then the texts, lengthened to the longest.
#include "axial/parallel/collectives/exchange.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <exception>

namespace axial::parallel {

std::vector<std::string> exchange(const std::string& mine, Communicator* ranks, const Axes& axes) {
  if (ranks == nullptr || ranks->mesh().group_size(axes) == 1) return {mine};
  const Communicator::ControlCalls control(*ranks);
  const at::Tensor lengths =
      ranks->all_gather(at::full({1}, static_cast<int64_t>(mine.size()), at::kLong), 0, axes);
  const auto longest = std::max<int64_t>(lengths.max().item<int64_t>(), 1);
  const at::Tensor text = at::zeros({1, longest}, at::kByte);
  std::copy(mine.begin(), mine.end(), text.mutable_data_ptr<uint8_t>());
  const at::Tensor all = ranks->all_gather(text, 0, axes);
  std::vector<std::string> out;
  for (int64_t r = 0; r < all.size(0); ++r) {
    const at::Tensor row = all[r];
    out.emplace_back(reinterpret_cast<const char*>(row.const_data_ptr<uint8_t>()),
                     static_cast<size_t>(lengths[r].item<int64_t>()));
  }
  return out;
}

Axes all_axes(const Mesh& mesh) {
  Axes out;
  for (const MeshAxis& axis : mesh.axes()) out.push_back(axis.name);
  return out;
}

void together(const std::function<void()>& work, Communicator* ranks) {
  std::exception_ptr own;
  std::string said;
  try {
    work();
  } catch (const CollectiveError&) {
    throw;  // the others meet it too, and another exchange could not complete
  } catch (const std::exception& error) {
    own = std::current_exception();
    said = fmt::format("!{}", error.what());
  }
  const std::vector<std::string> all =
      ranks == nullptr ? std::vector{said} : exchange(said, ranks, all_axes(ranks->mesh()));
  if (own) std::rethrow_exception(own);
  for (size_t r = 0; r < all.size(); ++r) {
    if (!all[r].empty()) throw Error(fmt::format("rank {}: {}", r, all[r].substr(1)));
  }
}

int64_t largest_of(int64_t mine, Communicator* ranks) {
  if (ranks == nullptr || ranks->mesh().world_size() == 1) return mine;
  const Communicator::ControlCalls control(*ranks);
  const at::Tensor value = at::full({1}, mine, at::kLong);
  return ranks->all_reduce(value, all_axes(ranks->mesh()), ReduceOp::kMax).item<int64_t>();
}

}  // namespace axial::parallel
