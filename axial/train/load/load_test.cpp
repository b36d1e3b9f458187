// SPDX-License-Identifier: Apache-2.0
// Run folders, checkpoint folders and Hugging Face folders all give the same model; wrong folders say why.
#include "axial/train/load/load.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "axial/testing/temporary_folder/temporary_folder.h"
#include "axial/train/checkpoint/store.h"
#include "axial/train/hugging_face/hugging_face.h"
#include "axial/train/testing/tiny_model.h"

namespace axial::train {
namespace {

namespace fs = std::filesystem;
using axial::testing::TemporaryFolder;
using ::testing::AllOf;
using ::testing::HasSubstr;

class LoadTest : public ::testing::Test {
 protected:
  LoadTest() { model_.parameters->materialize(at::kCPU, at::kFloat, 3); }

  void save(int64_t step, std::optional<double> loss) {
    RunState state;
    state.model_type = "tiny";
    state.model_config = model_.config;
    state.tokenizer = {{"kind", "test"}};
    state.step = step;
    state.validation_loss = loss;
    CheckpointStore(folder_ / "run/checkpoints", {.keep_last = 5}).save(state, *model_.parameters);
  }

  // Flip one bit in the middle of the first file whose name starts so; without one nothing happens.
  void damage(int64_t step, const std::string& prefix) const {
    const fs::path checkpoint = folder_ / fmt::format("run/checkpoints/step_{:08}", step);
    for (const auto& entry : fs::directory_iterator(checkpoint)) {
      if (!entry.path().filename().string().starts_with(prefix)) continue;
      std::string bytes = read_file(entry.path());
      bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
      std::ofstream(entry.path(), std::ios::binary) << bytes;
      return;
    }
  }

  void expect_same(const models::Model& other) const {
    EXPECT_EQ(other.config, model_.config);
    for (const auto& row : model_.parameters->rows()) {
      const parallel::Parameter& loaded = other.parameters->at(row->spec.name);
      EXPECT_TRUE(at::equal(loaded.value.to(at::kFloat), row->value)) << row->spec.name;
      EXPECT_TRUE(loaded.companions.empty());
    }
  }

  std::string write(const fs::path& folder, const nlohmann::json& tokenizer,
                    const HuggingFaceOptions& options) const {
    return write_hugging_face(folder, registry_, model_, parallel::readers_of(*model_.parameters), tokenizer,
                              options);
  }

  std::string error_of(const fs::path& path) const {
    try {
      load_model(path, registry_);
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  }

  TemporaryFolder folder_;
  models::ModelRegistry registry_ = testing::tiny_registry();
  models::Model model_ = testing::build_tiny({{"width", 6}});
};

TEST_F(LoadTest, RunFolderGivesTheBestUnlessTheLastIsAskedFor) {
  save(1, 2.0);
  save(2, 3.0);
  const LoadedModel best = load_model(folder_ / "run", registry_);
  EXPECT_EQ(best.step, 1);
  EXPECT_EQ(best.validation_loss, 2.0);
  EXPECT_EQ(best.tokenizer, (nlohmann::json{{"kind", "test"}}));
  expect_same(best.model);
  EXPECT_EQ(load_model(folder_ / "run", registry_, {std::nullopt, WhichCheckpoint::kLast}).step, 2);
  EXPECT_EQ(load_model(folder_ / "run/checkpoints/step_00000002", registry_).step, 2);
}

TEST_F(LoadTest, ADamagedBestGivesWayToTheNewestWholeOneUnlessItWasNamed) {
  save(1, 3.0);
  save(2, 2.0);
  save(3, 2.5);
  damage(2, "model-");
  EXPECT_EQ(load_model(folder_ / "run", registry_).step, 3);
  EXPECT_EQ(describe_model(folder_ / "run", registry_).step, 3);
  const fs::path named = folder_ / "run/checkpoints/step_00000002";
  EXPECT_THAT(error_of(named), HasSubstr("step_00000002"));
  const LoadedModel described = describe_model(named, registry_);
  EXPECT_EQ(described.step, 2);
  EXPECT_THAT(described.damage, HasSubstr("model-"));
  EXPECT_EQ(described.model.config, model_.config);
  damage(3, "model-");
  damage(1, "optimizer-");  // inference does not need it
  EXPECT_EQ(load_model(folder_ / "run", registry_).step, 1);
  damage(1, "model-");
  EXPECT_THAT(error_of(folder_ / "run"), HasSubstr("no checkpoint"));
  EXPECT_THAT(describe_model(folder_ / "run", registry_).damage, HasSubstr("no checkpoint"));
}

TEST_F(LoadTest, DescribingHasWhatLoadingHas) {
  save(1, 2.0);
  const LoadedModel described = describe_model(folder_ / "run", registry_);
  const LoadedModel loaded = load_model(folder_ / "run", registry_);
  EXPECT_EQ(described.damage, "");
  EXPECT_EQ(described.source, loaded.source);
  EXPECT_EQ(described.validation_loss, loaded.validation_loss);
  EXPECT_EQ(described.model.parameters->num_elements(), loaded.model.parameters->num_elements());
  EXPECT_THROW(describe_model(folder_ / "nothing", registry_), ValueError);
}

TEST_F(LoadTest, RunWithoutValidationGivesTheLast) {
  save(1, std::nullopt);
  save(2, std::nullopt);
  EXPECT_EQ(load_model(folder_ / "run", registry_).step, 2);
}

TEST_F(LoadTest, DtypeIsTheStoredOneOrTheOneAskedFor) {
  save(1, std::nullopt);
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    const LoadedModel loaded = load_model(folder_ / "run", registry_, {dtype});
    for (const auto& row : loaded.model.parameters->rows()) {
      EXPECT_EQ(row->value.scalar_type(), dtype);
      EXPECT_TRUE(row->companions.empty());
    }
  }
  EXPECT_EQ(load_model(folder_ / "run", registry_).model.parameters->at("embed").value.scalar_type(),
            at::kFloat);
}

TEST_F(LoadTest, HuggingFaceFoldersReturnWholeAndSharded) {
  for (const int64_t shard_bytes : {int64_t{1} << 30, int64_t{300}}) {
    const fs::path out = folder_ / fmt::format("hf{}", shard_bytes);
    EXPECT_EQ(write(out, {{"kind", "codon"}}, {.shard_bytes = shard_bytes}), "tiny_hf");
    EXPECT_EQ(fs::exists(out / "model.safetensors"), shard_bytes > 1000);
    const LoadedModel loaded = load_model(out, registry_);
    expect_same(loaded.model);
    EXPECT_EQ(loaded.tokenizer, (nlohmann::json{{"kind", "codon"}}));
  }
  const auto config = nlohmann::json::parse(read_file(folder_ / "hf300/config.json"));
  EXPECT_EQ(config["torch_dtype"], "float32");
  const auto index = nlohmann::json::parse(read_file(folder_ / "hf300/model.safetensors.index.json"));
  EXPECT_EQ(index["weight_map"].size(), model_.parameters->rows().size());
  EXPECT_GT(index["metadata"]["total_size"], 0);
}

TEST_F(LoadTest, AnExportHoldsOneParameterAtATime) {
  int64_t alive = 0, most = 0, read = 0;
  parallel::ParameterReaders readers;
  for (const auto& row : model_.parameters->rows()) {
    readers[row->spec.name] = [&, value = row->value.detach()] {
      read += 1;
      most = std::max(most, ++alive);
      const at::Tensor copy = value.clone();
      return at::from_blob(
          copy.data_ptr(), copy.sizes(), [&alive, copy](void*) { --alive; }, copy.options());
    };
  }
  const fs::path out = folder_ / "hf";
  write_hugging_face(out, registry_, model_, readers, nullptr, {.shard_bytes = 300});
  EXPECT_EQ(read, static_cast<int64_t>(model_.parameters->rows().size()));
  EXPECT_EQ(most, 1);
  expect_same(load_model(out, registry_).model);
}

TEST_F(LoadTest, ExportWritesTheDtypeThatIsAskedFor) {
  const fs::path out = folder_ / "hf";
  write_hugging_face(out, registry_, model_, parallel::readers_of(*model_.parameters), nullptr,
                     {.dtype = at::kBFloat16});
  EXPECT_EQ(nlohmann::json::parse(read_file(out / "config.json"))["torch_dtype"], "bfloat16");
  const LoadedModel loaded = load_model(out, registry_);
  for (const auto& row : model_.parameters->rows()) {
    const at::Tensor& value = loaded.model.parameters->at(row->spec.name).value;
    EXPECT_EQ(value.scalar_type(), at::kBFloat16);
    EXPECT_TRUE(at::equal(value, row->value.to(at::kBFloat16)));
  }
}

TEST_F(LoadTest, DescribedWeightsAreReadWhenAskedFor) {
  save(1, 2.0);
  write(folder_ / "hf", {{"kind", "codon"}}, {});
  for (const char* name : {"run", "hf"}) {
    const LoadedModel described = describe_model(folder_ / name, registry_);
    for (const auto& row : model_.parameters->rows()) {
      EXPECT_FALSE(described.model.parameters->at(row->spec.name).value.defined());
      EXPECT_TRUE(at::equal(parallel::read_parameter(described.weights, row->spec.name), row->value));
    }
    EXPECT_THROW(parallel::read_parameter(described.weights, "embod"), ValueError);
    EXPECT_TRUE(load_model(folder_ / name, registry_).weights.empty());
  }
}

TEST_F(LoadTest, ExportNamesTheSpecialIdsOfItsTokenizer) {
  const auto config_of = [&](const char* name, const nlohmann::json& tokenizer) {
    write(folder_ / name, tokenizer, {});
    return nlohmann::json::parse(read_file(folder_ / name / "config.json"));
  };
  const auto config = config_of("both", {{"kind", "codon"}, {"bos", true}, {"eos", true}});
  EXPECT_EQ(config["bos_token_id"], 1);
  EXPECT_EQ(config["eos_token_id"], 2);
  EXPECT_EQ(config["pad_token_id"], 3);
  const auto neither = config_of("neither", {{"kind", "codon"}, {"bos", false}, {"eos", false}});
  EXPECT_TRUE(neither["bos_token_id"].is_null() && neither["eos_token_id"].is_null());
  EXPECT_FALSE(config_of("unknown", nullptr).contains("bos_token_id"));
}

TEST_F(LoadTest, ExportNeverReplacesUnasked) {
  const fs::path out = folder_ / "hf";
  const nlohmann::json tokenizer{{"kind", "codon"}};
  write(out, tokenizer, {.shard_bytes = 300});
  EXPECT_THROW(write(out, tokenizer, {}), ValueError);
  write(out, tokenizer, {.family = "tiny_hf", .overwrite = true});
  EXPECT_TRUE(fs::exists(out / "model.safetensors"));
  EXPECT_FALSE(fs::exists(out / "model.safetensors.index.json"));
  EXPECT_THROW(write(folder_ / "other", nullptr, {.family = "llama"}), ValueError);
  int64_t entries = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator(folder_.path())) ++entries;
  EXPECT_EQ(entries, 1);
}

TEST_F(LoadTest, OverwritingAnExportTouchesNothingElse) {
  const nlohmann::json tokenizer{{"kind", "codon"}};
  const auto refusal = [&](const fs::path& out, const fs::path& source = {}) -> std::string {
    try {
      write(out, tokenizer, {.overwrite = true, .source = source});
    } catch (const ValueError& e) {
      return e.what();
    }
    return "no error";
  };
  save(1, 2.0);
  EXPECT_THAT(refusal(folder_ / "run"), HasSubstr("'checkpoints'"));
  EXPECT_EQ(load_model(folder_ / "run", registry_).step, 1);
  EXPECT_THAT(refusal(folder_ / "run/checkpoints/step_00000001"), HasSubstr("no export wrote"));

  const fs::path hf = folder_ / "hf";
  write(hf, tokenizer, {});
  fs::create_directory_symlink("hf", folder_ / "other_name");
  EXPECT_THAT(refusal(hf, folder_ / "other_name"), HasSubstr("the model that is exported"));
  std::ofstream(hf / "notes.txt") << "mine";
  EXPECT_THAT(refusal(hf), HasSubstr("'notes.txt'"));
  EXPECT_EQ(read_file(hf / "notes.txt"), "mine");
  fs::remove(hf / "notes.txt");
  fs::create_directories(hf / "model.safetensors.d");
  EXPECT_THAT(refusal(hf), HasSubstr("no export wrote"));
  fs::remove(hf / "model.safetensors.d");
  fs::remove(hf / "axial_tokenizer.json");  // someone else's model has none
  EXPECT_THAT(refusal(hf), HasSubstr("no 'axial_tokenizer.json'"));
  std::ofstream(folder_ / "file") << "mine";
  EXPECT_THAT(refusal(folder_ / "file"), HasSubstr("is no folder"));
  EXPECT_EQ(read_file(folder_ / "file"), "mine");
}

TEST_F(LoadTest, WrongFoldersSayWhatWasExpected) {
  EXPECT_THAT(error_of(folder_ / "nothing"), HasSubstr("does not exist"));
  fs::create_directories(folder_ / "empty");
  EXPECT_THAT(error_of(folder_ / "empty"),
              AllOf(HasSubstr("run folder"), HasSubstr("index.json"), HasSubstr("model.safetensors")));
  fs::create_directories(folder_ / "run/checkpoints");
  EXPECT_THAT(error_of(folder_ / "run"), HasSubstr("no checkpoint yet"));
  const fs::path hf = folder_ / "hf";
  write(hf, nullptr, {});
  fs::remove(hf / "model.safetensors");
  std::ofstream(hf / "pytorch_model.bin") << "x";
  EXPECT_THAT(error_of(hf), AllOf(HasSubstr("no 'model.safetensors'"), HasSubstr("pickled")));
  write_file_atomically(hf / "config.json", R"({"model_type": "mamba"})");
  EXPECT_THAT(error_of(hf), AllOf(HasSubstr("'mamba'"), HasSubstr("tiny_hf")));
  write_file_atomically(hf / "config.json", R"({"model_type": "tiny_hf"})");
  EXPECT_THAT(error_of(hf), HasSubstr("not as expected"));
  write_file_atomically(hf / "config.json", "{");
  EXPECT_THAT(error_of(hf), HasSubstr("not valid JSON"));
}

}  // namespace
}  // namespace axial::train
