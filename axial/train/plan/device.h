// SPDX-License-Identifier: Apache-2.0
// Devices that a plan is made for: what a process has of one, with the source of every number.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "axial/core/recipe/recipe.h"

namespace axial::train {

/// One accelerator and its share of the host.
struct Device {
  std::string name = "device";
  int64_t memory = 0;        ///< bytes that the driver shows
  int64_t context = 0;       ///< bytes of CUDA's context and of libraries
  int64_t communicator = 0;  ///< bytes of one NCCL communicator
  int64_t host = 0;          ///< bytes of host memory per device
  bool expandable_segments = true;
  double flops_16bit = 0;  ///< dense peak, per second
  double flops_32bit = 0;
  double bandwidth = 0;  ///< of its memory, bytes per second
  double link = 0;       ///< to the others of its machine, bytes per second each way
  double network = 0;    ///< to other machines, per device
  int64_t per_machine = 8;
  std::string source;

  template <class V>
  void fields(V& v) {
    v("name", name, "what it is called");
    v("memory", memory, "bytes that the driver shows", recipe::kRequired);
    v("context", context, "bytes of CUDA's context and of libraries");
    v("communicator", communicator, "bytes of one NCCL communicator");
    v("host", host, "bytes of host memory per device; 0: not known");
    v("expandable_segments", expandable_segments, "of torch's allocator");
    v("flops_16bit", flops_16bit, "dense peak per second");
    v("flops_32bit", flops_32bit, "dense peak per second");
    v("bandwidth", bandwidth, "of its memory, bytes per second");
    v("link", link, "to the others of its machine, bytes per second each way");
    v("network", network, "to other machines, bytes per second for each device");
    v("per_machine", per_machine, "devices of one machine");
    v("source", source, "where the numbers are from");
  }
  void validate() const;  ///< throws ValueError
};

/// Of the table, or of a YAML file with these keys. Throws ValueError with the nearest name, RecipeError.
Device find_device(const std::string& name_or_file);
/// Names of the table.
std::vector<std::string> device_names();

}  // namespace axial::train
