// SPDX-License-Identifier: Apache-2.0
// Round trip, every kind of damage to every file, versions, other models, full disks, pruning.
#include "axial/train/checkpoint/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <fstream>

#include "axial/testing/temporary_folder/temporary_folder.h"
#include "axial/train/checkpoint/store.h"
#include "axial/train/testing/tiny_model.h"

namespace axial::train {
namespace {

namespace fs = std::filesystem;
using axial::testing::TemporaryFolder;
using ::testing::AllOf;
using ::testing::HasSubstr;

models::Model make_model(at::ScalarType dtype, uint64_t seed,
                         const nlohmann::json& config = nlohmann::json::object()) {
  models::Model model = testing::build_tiny(config);
  model.parameters->materialize(at::kCPU, dtype, seed);
  for (const auto& row : model.parameters->rows()) {
    const auto type = dtype == at::kDouble ? at::kDouble : at::kFloat;
    row->companions["exp_avg"] =
        at::full(row->spec.shape, 0.25 + static_cast<double>(seed), at::TensorOptions(type));
    row->companions["exp_avg_sq"] = at::rand(row->spec.shape, at::TensorOptions(type));
  }
  return model;
}

RunState state_of(const models::Model& model, int64_t step) {
  RunState state;
  state.model_type = model.type;
  state.model_config = model.config;
  state.tokenizer = {{"kind", "test"}};
  state.precision = "fp32";
  state.seed = 18446744073709551615u;
  state.step = step;
  state.next_row = step * 4;
  state.seconds = 0.1 + 0.2;
  state.loss_scaler = {{"scale", 1024.0}};
  return state;
}

std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

void flip_bit(const fs::path& path, int64_t byte) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(byte);
  const char c = static_cast<char>(file.get() ^ 1);
  file.seekp(byte);
  file.put(c);
}

class CheckpointTest : public ::testing::Test {
 protected:
  TemporaryFolder folder_;
  CheckpointStore store_{folder_ / "checkpoints"};
  models::Model model_ = make_model(at::kFloat, 1);

  fs::path save(int64_t step, std::optional<double> validation = std::nullopt) {
    RunState state = state_of(model_, step);
    state.validation_loss = validation;
    return store_.save(state, *model_.parameters);
  }
};

TEST_F(CheckpointTest, ReturnsEveryTensorAndTheWholeState) {
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16, at::kHalf}) {
    for (const int64_t shard_bytes : {int64_t{1}, int64_t{700}, int64_t{1} << 30}) {
      const TemporaryFolder folder;
      CheckpointStore store(folder.path(), {1, shard_bytes});
      const models::Model saved = make_model(dtype, 1);
      RunState state = state_of(saved, 7);
      state.validation_loss = 1.0 / 3.0;
      store.save(state, *saved.parameters);
      const auto index = store.newest_good();
      ASSERT_TRUE(index.has_value());
      EXPECT_EQ(index->state.seed, state.seed);
      EXPECT_EQ(index->state.seconds, state.seconds);
      EXPECT_EQ(index->state.validation_loss, state.validation_loss);
      EXPECT_EQ(index->state.tokenizer, state.tokenizer);
      EXPECT_EQ(index->state.loss_scaler, state.loss_scaler);
      models::Model loaded = make_model(dtype, 2);
      load_parameters(*index, CheckpointParts::kEverything, *loaded.parameters);
      for (const auto& row : saved.parameters->rows()) {
        const parallel::Parameter& other = loaded.parameters->at(row->spec.name);
        EXPECT_TRUE(at::equal(row->value, other.value));
        EXPECT_TRUE(other.value.requires_grad());
        ASSERT_EQ(row->companions.size(), other.companions.size());
        for (const auto& [name, tensor] : row->companions) {
          EXPECT_TRUE(at::equal(tensor, other.companions.at(name))) << name;
        }
      }
    }
  }
}

TEST_F(CheckpointTest, AnyDamageToAnyFileIsNamedAndThePreviousIsUsed) {
  save(1);
  const fs::path newest = save(2);
  std::vector<std::string> files;
  for (const auto& entry : fs::directory_iterator(newest)) files.push_back(entry.path().filename());
  ASSERT_EQ(files.size(), 3u);
  for (const std::string& name : files) {
    for (const std::string damage : {"first", "middle", "last", "truncate", "empty", "delete", "grow"}) {
      const fs::path copy = folder_ / "copy";
      fs::remove_all(copy);
      fs::copy(newest, copy);
      const fs::path path = newest / name;
      const auto size = static_cast<int64_t>(fs::file_size(path));
      if (damage == "first") flip_bit(path, 0);
      if (damage == "middle") flip_bit(path, size / 2);
      if (damage == "last") flip_bit(path, size - 2);  // index.json ends with a newline
      if (damage == "truncate") fs::resize_file(path, static_cast<uintmax_t>(size - 7));
      if (damage == "empty") fs::resize_file(path, 0);
      if (damage == "delete") fs::remove(path);
      if (damage == "grow") std::ofstream(path, std::ios::app) << "x";
      const std::string error =
          error_of([&] { verify_checkpoint(read_checkpoint_index(newest), CheckpointParts::kEverything); });
      EXPECT_THAT(error, HasSubstr(name)) << damage;
      const auto used = store_.newest_good();
      ASSERT_TRUE(used.has_value()) << name << " " << damage;
      EXPECT_EQ(used->state.step, 1) << name << " " << damage;
      fs::remove_all(newest);
      fs::rename(copy, newest);
    }
  }
  EXPECT_EQ(store_.newest_good()->state.step, 2);
  flip_bit(newest / "optimizer-00001.safetensors", 100);
  EXPECT_NO_THROW(verify_checkpoint(read_checkpoint_index(newest), CheckpointParts::kValues));
  flip_bit(folder_ / "checkpoints/step_00000001/index.json", 30);
  EXPECT_THAT(error_of([&] { store_.newest_good(); }), HasSubstr("no checkpoint in"));
}

TEST_F(CheckpointTest, NewerFormatIsRefusedNotPassedOver) {
  save(1);
  const fs::path newest = save(2);
  nlohmann::json index = nlohmann::json::parse(read_file(newest / "index.json"));
  index["format_version"] = 9;
  index.erase("hash");
  const std::string hashed = index.dump();
  index["hash"] = hash_bytes(std::as_bytes(std::span(hashed)));
  write_file_atomically(newest / "index.json", index.dump());
  EXPECT_THAT(
      error_of([&] { store_.newest_good(); }),
      AllOf(HasSubstr("format version 9"), HasSubstr("reads versions up to 1"), HasSubstr("index.json")));
  EXPECT_THROW(store_.newest_good(), UnsupportedError);
}

TEST_F(CheckpointTest, AnotherArchitectureNamesTheKeysAndShapes) {
  const CheckpointIndex index = read_checkpoint_index(save(1));
  models::Model wide = make_model(at::kFloat, 1, {{"width", 16}, {"dropout", 0.5}});
  EXPECT_THAT(error_of([&] { check_same_model(index, "tiny", wide.config); }),
              AllOf(HasSubstr("dropout: 0.0, 0.5"), HasSubstr("width: 8, 16")));
  EXPECT_THAT(error_of([&] { check_same_model(index, "decoder", wide.config); }), HasSubstr("'decoder'"));
  EXPECT_THAT(error_of([&] { load_parameters(index, CheckpointParts::kValues, *wide.parameters); }),
              AllOf(HasSubstr("'embed'"), HasSubstr("[11, 16]"), HasSubstr("[11, 8]")));
  models::Model deep = make_model(at::kFloat, 1, {{"layers", 3}});
  EXPECT_THAT(error_of([&] { load_parameters(index, CheckpointParts::kValues, *deep.parameters); }),
              HasSubstr("has no parameter 'layer.2.weight'"));
  models::Model shallow = make_model(at::kFloat, 1, {{"layers", 1}});
  EXPECT_THAT(error_of([&] { load_parameters(index, CheckpointParts::kValues, *shallow.parameters); }),
              HasSubstr("which the model lacks"));
  models::Model half = make_model(at::kBFloat16, 1);
  EXPECT_THAT(error_of([&] { load_parameters(index, CheckpointParts::kEverything, *half.parameters); }),
              HasSubstr("expected bfloat16, got float32"));
}

TEST_F(CheckpointTest, ALayoutTakesItsPart) {
  const CheckpointIndex index = read_checkpoint_index(save(1));
  models::Model part = testing::build_tiny(nlohmann::json::object());
  parallel::Parameter& row = part.parameters->at("embed");
  row.holding = parallel::Holding::cut(row.spec.shape, 0, {{3, 5}});
  part.parameters->materialize(at::kCPU, at::kFloat, 5);
  load_parameters(index, CheckpointParts::kEverything, *part.parameters);
  EXPECT_TRUE(at::equal(row.value, model_.parameters->at("embed").value.narrow(0, 3, 2)));
  EXPECT_TRUE(at::equal(row.companions.at("exp_avg_sq"),
                        model_.parameters->at("embed").companions.at("exp_avg_sq").narrow(0, 3, 2)));
  EXPECT_THAT(error_of([&] { store_.save(state_of(part, 9), *part.parameters); }), HasSubstr("held in part"));
}

TEST_F(CheckpointTest, FullDiskLeavesTheOlderOnesAndNoRest) {
  save(1);
  struct rlimit before {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  struct rlimit small = before;
  small.rlim_cur = 1500;  // model-00001 (about 1.3 KiB) fits, optimizer-00001 does not
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string error = error_of([&] { save(2); });
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_THAT(error,
              AllOf(HasSubstr("step 2 could not be saved"), HasSubstr("older checkpoints are untouched")));
  EXPECT_EQ(store_.newest_good()->state.step, 1);
  int64_t entries = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator(folder_ / "checkpoints")) ++entries;
  EXPECT_EQ(entries, 2);  // step_00000001 and checkpoints.json
}

TEST_F(CheckpointTest, KeepsTheNewestAndTheBest) {
  CheckpointStore store(folder_ / "kept", {2, int64_t{1} << 30});
  const std::vector<double> losses{5, 3, 4, 4.5, 3.5};
  for (size_t i = 0; i < losses.size(); ++i) {
    RunState state = state_of(model_, static_cast<int64_t>(i + 1));
    state.validation_loss = losses[i];
    store.save(state, *model_.parameters);
  }
  std::vector<int64_t> steps;
  for (const FoundCheckpoint& found : store.list()) steps.push_back(found.step);
  EXPECT_EQ(steps, (std::vector<int64_t>{2, 4, 5}));
  EXPECT_EQ(store.best()->state.step, 2);
  const auto summary = nlohmann::json::parse(read_file(folder_ / "kept/checkpoints.json"));
  EXPECT_EQ(summary["best"], "step_00000002");
  EXPECT_EQ(summary["last"], "step_00000005");
  // Going back to step 3 leaves no later, abandoned checkpoints behind.
  store.save(state_of(model_, 3), *model_.parameters);
  steps.clear();
  for (const FoundCheckpoint& found : store.list()) steps.push_back(found.step);
  EXPECT_EQ(steps, (std::vector<int64_t>{2, 3}));
}

TEST_F(CheckpointTest, LeftoversAreRemovedAndNeverRead) {
  save(3);
  fs::create_directories(folder_ / "checkpoints/.tmp-step_00000009-123");
  write_file_atomically(folder_ / "checkpoints/.tmp-step_00000009-123/model-00001.safetensors", "part");
  fs::create_directories(folder_ / "checkpoints/step_x");
  EXPECT_EQ(store_.newest_good()->state.step, 3);
  store_.clean();
  EXPECT_FALSE(fs::exists(folder_ / "checkpoints/.tmp-step_00000009-123"));
  EXPECT_TRUE(fs::exists(folder_ / "checkpoints/step_00000003"));
  EXPECT_FALSE(CheckpointStore(folder_ / "nothing").newest_good().has_value());
}

}  // namespace
}  // namespace axial::train
