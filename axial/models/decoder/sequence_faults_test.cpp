// SPDX-License-Identifier: Apache-2.0
// The mistakes that the field has made with split sequences, put in on purpose: each changes loss or
// gradients by far more than the tests of decoder_sequence_test.cpp let pass. docs/parallelism.md lists them.
#include <gtest/gtest.h>

#include "axial/models/decoder/sequence_case.h"
#include "axial/testing/ranks/ranks.h"

namespace axial::models {
namespace {

using axial::testing::failures;
using axial::testing::require;
using axial::testing::run_ranks;
using parallel::NamedTensors;
using parallel::World;
using testing::kLength;
using testing::Mistake;
using testing::Party;

void shift_labels_after_the_cut(NamedTensors& batch) {
  const at::Tensor tokens = batch.at("tokens"), starts = batch.at("positions") == 0;
  at::Tensor labels = at::full_like(tokens, parallel::kIgnoredLabel);
  const int64_t n = tokens.size(1) - 1;
  labels.narrow(1, 0, n).copy_(at::where(starts.narrow(1, 1, n),
                                         at::full_like(tokens.narrow(1, 1, n), parallel::kIgnoredLabel),
                                         tokens.narrow(1, 1, n)));
  batch["labels"] = labels;
}

void count_positions_from_the_cut(NamedTensors& batch) {
  at::Tensor& positions = batch.at("positions");
  positions = at::arange(positions.size(1), at::kLong).expand(positions.sizes()).contiguous();
}

void forget_records(NamedTensors& batch) {
  batch.at("record_starts") = at::zeros_like(batch.at("record_starts"));
}

void key_dropout_by_the_cut(NamedTensors& batch) {
  batch.at("row_positions") = at::arange(batch.at("row_positions").size(0), at::kLong);
}

// A length that the ranks do not divide, cut down to one that they do (DeepSpeed #7384).
void leave_the_tail_out(NamedTensors& batch) {
  batch.at("labels").masked_fill_((batch.at("row_positions") >= kLength - 1).unsqueeze(0),
                                  parallel::kIgnoredLabel);
}

struct Fault {
  const char* name;
  const char* settings;  // of decoder_cases()
  Mistake mistake;
  bool mean_per_rank = false;
};

std::vector<Fault> faults() {
  return {{"LabelsShiftedAfterTheCut", "llama", shift_labels_after_the_cut},
          {"LearnedPositionsThatStartAgain", "gpt2", count_positions_from_the_cut},
          {"RotaryPositionsThatStartAgain", "neox", count_positions_from_the_cut},
          {"AttentionAcrossRecords", "bloom", forget_records},
          {"DropoutByThePlaceInTheShard", "dropout", key_dropout_by_the_cut},
          {"ATailThatTheRanksDoNotDivide", "llama", leave_the_tail_out},
          {"LossAveragedPerRank", "llama", {}, true}};
}

class SequenceFaults : public ::testing::TestWithParam<size_t> {};

TEST_P(SequenceFaults, AreNoticed) {
  const Fault fault = faults()[GetParam()];
  nlohmann::json settings;
  for (const testing::DecoderCase& c : testing::decoder_cases()) {
    if (c.name == std::string(fault.settings)) settings = c.settings;
  }
  ASSERT_FALSE(settings.is_null());
  const auto body = [&](World& world) {
    for (const bool ring : {true, false}) {
      Party party(world, ring ? 2 : 1, ring ? 1 : 2);
      // The mean over ranks of each rank's mean loss, where ranks have different numbers of labels.
      const auto mean = [&](const NamedTensors& batch) {
        const auto own = (batch.at("labels") != parallel::kIgnoredLabel).sum().item<double>();
        return 1 / own / static_cast<double>(world.size());
      };
      const double worst =
          fault.mean_per_rank ? party.compare(settings, {}, mean) : party.compare(settings, fault.mistake);
      require(worst > 1e-4, fmt::format("{} with {} makes a difference of {} only", fault.name,
                                        ring ? "ring" : "ulysses", worst));
    }
  };
  EXPECT_EQ(failures(run_ranks(2, body)), "");
}

INSTANTIATE_TEST_SUITE_P(Decoder, SequenceFaults, ::testing::Range<size_t>(0, faults().size()),
                         [](const auto& info) { return std::string(faults()[info.param].name); });

}  // namespace
}  // namespace axial::models
