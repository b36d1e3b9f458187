// SPDX-License-Identifier: Apache-2.0
// The table. Memory as torch reports it ("total capacity"), which differs a little between drivers; peaks and
// bandwidths from NVIDIA's data sheets, without sparsity; what a context and a communicator take from
// measurements that others published.
#include "axial/train/plan/device.h"

#include <cmath>
#include <filesystem>

#include "axial/core/check/check.h"
#include "axial/core/text/text.h"

namespace axial::train {

namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

int64_t gib(double count) { return std::llround(count * 1024.0) * kMiB; }

// pytorch/pytorch#107667: about 300 MiB since CUDA 11.7 loads kernels when they are first used; cuBLAS keeps
// a workspace of 8 to 32 MiB beside it.
constexpr int64_t kContext = 340 * kMiB;
// NVIDIA/nccl#964, A100 with NVLink: a process with one communicator of more than two ranks took 688 MiB, its
// context of about 300 included.
constexpr int64_t kCommunicator = 380 * kMiB;

std::vector<Device> table() {
  std::vector<Device> out;
  const auto add = [&](const char* name, double memory_gib, double host_gib, double flops_16bit,
                       double flops_32bit, double bandwidth, double link, const char* source) {
    Device device;
    device.name = name;
    device.memory = gib(memory_gib);
    device.context = kContext;
    device.communicator = kCommunicator;
    device.host = gib(host_gib);
    device.flops_16bit = flops_16bit;
    device.flops_32bit = flops_32bit;
    device.bandwidth = bandwidth;
    device.link = link;
    device.network = 25e9;  // one port of 200 Gb/s
    device.source = source;
    out.push_back(device);
  };
  add("a100-40gb", 39.5, 128, 312e12, 19.5e12, 1.555e12, 300e9,
      "torch: 39.39 to 39.59 GiB; DGX A100 data sheet: 8 devices, 1 TB of host memory, NVLink 600 GB/s both "
      "ways");
  add("a100-80gb", 79.15, 256, 312e12, 19.5e12, 2.039e12, 300e9,
      "torch: 79.15 to 79.25 GiB; DGX A100 640 GB data sheet: 2 TB of host memory");
  add("h100-80gb", 79.1, 256, 989e12, 67e12, 3.35e12, 450e9,
      "torch: 79.11 GiB; DGX H100 data sheet: 2 TB of host memory, NVLink 900 GB/s both ways");
  add("h200", 139.8, 256, 989e12, 67e12, 4.8e12, 450e9,
      "torch: about 139.8 GiB; H200 data sheet; host memory as DGX H200: 2 TB");
  return out;
}

}  // namespace

void Device::validate() const {
  for (const auto& [what, bytes] :
       {std::pair{"memory", memory}, {"context", context}, {"host", host}, {"communicator", communicator}}) {
    AXIAL_CHECK(bytes >= 0, "device", "{}; expected bytes from 0, got {}", what, bytes);
  }
  AXIAL_CHECK(memory > 0, "device", "memory; expected bytes above 0, got {}", memory);
  AXIAL_CHECK(per_machine >= 1, "device", "per_machine; expected at least 1, got {}", per_machine);
  for (const auto& [what, rate] : {std::pair{"flops_16bit", flops_16bit},
                                   {"flops_32bit", flops_32bit},
                                   {"bandwidth", bandwidth},
                                   {"link", link},
                                   {"network", network}}) {
    AXIAL_CHECK(std::isfinite(rate) && rate >= 0, "device", "{}; expected a rate from 0, got {}", what, rate);
  }
}

std::vector<std::string> device_names() {
  std::vector<std::string> names;
  for (const Device& device : table()) names.push_back(device.name);
  return names;
}

Device find_device(const std::string& name_or_file) {
  for (Device& device : table()) {
    if (device.name == name_or_file) return device;
  }
  const std::filesystem::path path(name_or_file);
  if (path.extension() == ".yaml" || path.extension() == ".yml") {
    return recipe::parse_file<Device>(path);
  }
  fail("plan", "device '{}'; expected one of {}, or a YAML file{}", name_or_file,
       fmt::join(device_names(), ", "), did_you_mean(name_or_file, device_names()));
}

}  // namespace axial::train
