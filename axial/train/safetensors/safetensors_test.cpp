// SPDX-License-Identifier: Apache-2.0
// Round trips, a table of malformed headers, random damage.
#include "axial/train/safetensors/safetensors.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "axial/core/rng/rng.h"
#include "axial/testing/temporary_folder/temporary_folder.h"
#include "axial/train/safetensors/tensor_io.h"

namespace axial::train {
namespace {

using ::testing::HasSubstr;

std::string file_of(const std::string& header, size_t data_bytes) {
  std::string out(8, '\0');
  for (size_t i = 0; i < 8; ++i) out[i] = static_cast<char>(header.size() >> (8 * i) & 0xff);
  return out + header + std::string(data_bytes, 'd');
}

SafetensorsHeader parse(const std::string& content) {
  return parse_safetensors(std::as_bytes(std::span(content)), "test file");
}

TEST(Safetensors, EveryDtypeShapeAndStrideReturns) {
  const testing::TemporaryFolder folder;
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (const at::ScalarType type : {at::kDouble, at::kFloat, at::kBFloat16, at::kHalf, at::kLong, at::kInt,
                                    at::kShort, at::kChar, at::kByte, at::kBool}) {
    tensors.emplace_back(c10::toString(type), at::arange(24, at::kDouble).view({2, 3, 4}).to(type));
  }
  tensors.emplace_back("strided", at::arange(12, at::kFloat).view({3, 4}).t());
  tensors.emplace_back("scalar", at::scalar_tensor(2.5));
  tensors.emplace_back("empty", at::empty({0, 7}));
  tensors.emplace_back("name with \"quotes\" and \xC3\xA9", at::ones({1}));
  const WrittenFile written = write_safetensors(folder / "t", tensors, {{"format", "pt"}});
  EXPECT_EQ(written.hash, hash_file(folder / "t"));
  EXPECT_EQ(written.bytes, static_cast<int64_t>(std::filesystem::file_size(folder / "t")));
  const SafetensorsFile file(folder / "t");
  EXPECT_EQ(file.header().metadata.at("format"), "pt");
  EXPECT_EQ(file.header().tensors.size(), tensors.size());
  EXPECT_EQ(file.header().data_begin % 8, 0);
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor read = read_tensor(file, name);
    EXPECT_EQ(read.scalar_type(), tensor.scalar_type()) << name;
    EXPECT_TRUE(at::equal(read, tensor)) << name;
  }
  try {
    read_tensor(file, "scalars");
    FAIL();
  } catch (const ValueError& e) {
    EXPECT_THAT(e.what(), HasSubstr("did you mean 'scalar'"));
  }
}

TEST(Safetensors, HeldPartsAreCutFromTheLogicalTensor) {
  const testing::TemporaryFolder folder;
  const at::Tensor whole = at::arange(48, at::kFloat).view({8, 6});
  write_safetensors(folder / "t", {{"w", whole}});
  const SafetensorsFile file(folder / "t");
  const auto columns = parallel::Holding::cut({8, 6}, 1, {{2, 5}});
  EXPECT_TRUE(at::equal(read_held(file, "w", columns), whole.narrow(1, 2, 3)));
  auto strided = parallel::Holding::cut({8, 6}, 0, {{1, 3}, {5, 7}});  // rows 1, 2, 5, 6
  EXPECT_TRUE(
      at::equal(read_held(file, "w", strided), at::cat({whole.narrow(0, 1, 2), whole.narrow(0, 5, 2)})));
  strided.flat_begin = 5;
  strided.flat_end = 20;
  const at::Tensor flat = at::cat({whole.narrow(0, 1, 2), whole.narrow(0, 5, 2)}).flatten();
  EXPECT_TRUE(at::equal(read_held(file, "w", strided), flat.slice(0, 5, 20)));
}

struct Refused {
  std::string content;
  std::string reason;
};

void expect_refused(const std::vector<Refused>& cases) {
  for (const Refused& c : cases) {
    try {
      parse(c.content);
      ADD_FAILURE() << "accepted: " << c.content.substr(0, 90);
    } catch (const ValueError& e) {
      EXPECT_THAT(e.what(), HasSubstr(c.reason)) << c.content.substr(0, 90);
      EXPECT_THAT(e.what(), HasSubstr("test file"));
    }
  }
}

constexpr const char* kGood = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";

TEST(Safetensors, MalformedJsonIsRefusedWithTheReason) {
  expect_refused({
      {"", "too few"},
      {"1234567", "too few"},
      {std::string(8, '\xff'), "above"},
      {std::string("\x10\0\0\0\0\0\0\0{}", 10), "truncated"},
      {file_of("", 0), "start with"},
      {file_of("[]", 0), "start with"},
      {file_of(" {}", 0), "start with"},
      {file_of("{", 0), "not valid JSON"},
      {file_of("{\"a\":1e999}", 0), "not valid JSON"},
      {file_of("{\"\xff\":1}", 0), "not valid JSON"},
      {file_of(R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"a":{"dtype":"U8","shape":[8],)"
               R"("data_offsets":[0,8]}})",
               8),
       "appears twice"},
      {file_of(R"({"a":{"dtype":"U8","dtype":"U8","shape":[8],"data_offsets":[0,8]}})", 8), "appears twice"},
      {file_of(R"({"a":{"b":{"c":{"d":1}}}})", 0), "too deeply"},
      {file_of("{\"a\":" + std::string(100000, '['), 0), "too deeply"},
      {file_of(R"({"__metadata__":{"a":1}})", 0), "not a string"},
      {file_of(R"({"__metadata__":[]})", 0), "not an object"},
  });
}

TEST(Safetensors, MalformedEntriesAreRefusedWithTheReason) {
  ASSERT_EQ(parse(file_of(kGood, 8)).tensors.size(), 1u);
  expect_refused({
      {file_of(R"({"a":5})", 0), "exactly dtype"},
      {file_of(R"({"a":{"dtype":"F32","shape":[2]}})", 8), "exactly dtype"},
      {file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1}})", 8), "exactly dtype"},
      {file_of(R"({"a":{"dtype":"F31","shape":[2],"data_offsets":[0,8]}})", 8), "unknown dtype 'F31'"},
      {file_of(R"({"a":{"dtype":7,"shape":[2],"data_offsets":[0,8]}})", 8), "not a string"},
      {file_of(R"({"a":{"dtype":"F32","shape":2,"data_offsets":[0,8]}})", 8), "not a list"},
      {file_of(R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8), "whole numbers"},
      {file_of(R"({"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}})", 8), "whole numbers"},
      {file_of(R"({"a":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8]}})", 8),
       "whole numbers"},
      {file_of(R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]}})", 8),
       "overflow"},
      {file_of(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8), "expected 12 bytes"},
      {file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8), "do not fit"},
      {file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0]}})", 8), "not a pair"},
      {file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,9223372036854775808]}})", 8),
       "whole numbers"},
      {file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})", 12), "a hole"},
      {file_of(kGood, 7), "truncated"},
      {file_of(kGood, 9), "after its tensors"},
      {file_of(R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[8],)"
               R"("data_offsets":[4,12]}})",
               12),
       "overlap"},
  });
}

TEST(Safetensors, RandomDamageNeverPassesUnbounded) {
  const std::string good =
      file_of(R"({"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},)"
              R"("b":{"dtype":"BF16","shape":[0,9],"data_offsets":[8,8]},)"
              R"("c":{"dtype":"I64","shape":[],"data_offsets":[8,16]}})",
              16);
  const RngKey key = root_key(7).child("damage");
  int refused = 0;
  for (uint64_t i = 0; i < 20000; ++i) {
    std::string bad = good;
    for (uint64_t hit = 0; hit < 1 + i % 3; ++hit) {
      bad[random_below(key, 8 * i + hit, bad.size())] = static_cast<char>(random_bits(key, 8 * i + 4 + hit));
    }
    if (i % 5 == 0) bad.resize(random_below(key, 8 * i + 7, bad.size()));
    try {
      for (const TensorEntry& entry : parse(bad).tensors) {
        ASSERT_LE(static_cast<size_t>(entry.end), bad.size());
      }
    } catch (const ValueError&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 10000);
}

TEST(Safetensors, WriterRefusesWhatItDidNotPlan) {
  const testing::TemporaryFolder folder;
  EXPECT_THROW(SafetensorsWriter(folder / "t", {{"a", DType::kF32, {1}}, {"a", DType::kF32, {1}}}),
               ValueError);
  EXPECT_THROW(SafetensorsWriter(folder / "t", {{"__metadata__", DType::kF32, {1}}}), ValueError);
  EXPECT_THROW(SafetensorsWriter("/dev/full", {{"a", DType::kF32, {1}}}), IoError);
  SafetensorsWriter writer(folder / "t", {{"a", DType::kF32, {1}}});
  const std::array<std::byte, 8> bytes{};
  EXPECT_THROW(writer.write(bytes), ValueError);
  writer.write(std::span(bytes).first(2));
  EXPECT_THROW(writer.finish(), ValueError);
}

TEST(Safetensors, TypesWithoutACounterpartAreNamed) {
  const testing::TemporaryFolder folder;
  write_file_atomically(folder / "t",
                        file_of(R"({"a":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}})", 4));
  const SafetensorsFile file(folder / "t");
  EXPECT_THROW(read_tensor(file, "a"), UnsupportedError);
}

}  // namespace
}  // namespace axial::train
