// SPDX-License-Identifier: Apache-2.0
#include "axial/parallel/mesh/mesh_options.h"

#include <algorithm>
#include <string>

#include "axial/core/check/check.h"

namespace axial::parallel {

namespace {
constexpr const char* kOp = "parallel";

// "; nearest: 2 and 4": the divisors around a number that is none.
std::string nearest_divisors(int64_t world_size, int64_t number) {
  int64_t below = std::min(number, world_size), above = std::max<int64_t>(number, 1);
  while (below > 1 && world_size % below != 0) --below;
  while (above < world_size && world_size % above != 0) ++above;
  if (above > world_size) return fmt::format("; nearest: {}", below);
  return fmt::format("; nearest: {} and {}", below, above);
}

}  // namespace

void MeshOptions::validate() const {
  AXIAL_CHECK(data >= 0, kOp, "data; expected at least 0, got {}", data);
  for (const auto& [name, degree] :
       {std::pair{"pipe", pipe}, {"ring", ring}, {"ulysses", ulysses}, {"tensor", tensor}}) {
    AXIAL_CHECK(degree >= 1, kOp, "{}; expected at least 1, got {}", name, degree);
  }
  AXIAL_CHECK(stages_per_rank >= 1 && (stages_per_rank == 1 || pipe > 1), kOp,
              "stages_per_rank; expected at least 1, and 1 without pipe, got {} with pipe {}",
              stages_per_rank, pipe);
  AXIAL_CHECK(pipe_schedule != PipeSchedule::kGPipe || pipe > 1, kOp,
              "pipe_schedule; expected 1f1b without pipe, got gpipe");
  AXIAL_CHECK(replicate_vocabulary_below >= 0, kOp, "replicate_vocabulary_below; expected at least 0, got {}",
              replicate_vocabulary_below);
  AXIAL_CHECK(0 <= zero && zero <= 3, kOp, "zero; expected a stage of [0, 3], got {}", zero);
}

Mesh make_mesh(const MeshOptions& options, int64_t world_size, int64_t rank) {
  options.validate();
  int64_t others = 1;
  for (const int64_t degree : {options.pipe, options.ring, options.ulysses, options.tensor}) {
    AXIAL_CHECK(!__builtin_mul_overflow(others, degree, &others), kOp, "degrees; expected a product of {}",
                world_size);
  }
  AXIAL_CHECK(
      world_size % others == 0 && (options.data == 0 || options.data * others == world_size), kOp,
      "degrees data {} * pipe {} * ring {} * ulysses {} * tensor {}; expected {} of {} ranks, got {}{}",
      options.data == 0 ? "(what is left)" : std::to_string(options.data), options.pipe, options.ring,
      options.ulysses, options.tensor, options.data == 0 ? "a divisor" : "the product", world_size,
      options.data == 0 ? others : options.data * others,
      options.data == 0 ? nearest_divisors(world_size, others) : "");
  return Mesh({{"data", world_size / others},
               {"pipe", options.pipe},
               {"ring", options.ring},
               {"ulysses", options.ulysses},
               {"tensor", options.tensor}},
              world_size, rank);
}

}  // namespace axial::parallel
