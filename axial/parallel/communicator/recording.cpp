// SPDX-License-Identifier: Apache-2.0
#include "axial/parallel/communicator/recording.h"

namespace axial::parallel {

namespace {

class RecordingTransport final : public Transport {
 public:
  explicit RecordingTransport(std::vector<RecordedCall>* calls) : calls_(calls) {}

  Wait all_reduce(const at::Tensor& buffer, const Group& group, ReduceOp) override {
    return note("all_reduce", buffer, group);
  }
  Wait all_gather(const at::Tensor&, const at::Tensor& in, const Group& group) override {
    return note("all_gather", in, group);
  }
  Wait reduce_scatter(const at::Tensor&, const at::Tensor& in, const Group& group, ReduceOp) override {
    return note("reduce_scatter", in, group);
  }
  Wait all_to_all(const at::Tensor&, const at::Tensor& in, std::vector<int64_t>, std::vector<int64_t>,
                  const Group& group) override {
    return note("all_to_all", in, group);
  }
  Wait broadcast(const at::Tensor& buffer, int64_t, const Group& group) override {
    return note("broadcast", buffer, group);
  }
  Wait send(const at::Tensor& buffer, int64_t, const Group& group, int64_t) override {
    return note("send", buffer, group);
  }
  Wait recv(const at::Tensor& buffer, int64_t, const Group& group, int64_t) override {
    return note("recv", buffer, group);
  }
  Wait barrier(const Group& group) override { return note("barrier", {}, group); }

 private:
  Wait note(const char* op, const at::Tensor& tensor, const Group& group) {
    if (calls_ != nullptr) {
      const int64_t bytes =
          tensor.defined() ? tensor.numel() * static_cast<int64_t>(tensor.element_size()) : 0;
      calls_->push_back({op, group.name, group.size(), bytes});
    }
    return {};
  }

  std::vector<RecordedCall>* calls_;
};

}  // namespace

std::unique_ptr<Transport> make_recording_transport(std::vector<RecordedCall>* calls) {
  return std::make_unique<RecordingTransport>(calls);
}

}  // namespace axial::parallel
