// SPDX-License-Identifier: Apache-2.0
#include "axial/core/text/text.h"

#include <gtest/gtest.h>

namespace axial {
namespace {

TEST(Text, NearestName) {
  const std::vector<std::string> names{"steps", "batch_size", "learning_rate"};
  EXPECT_EQ(nearest_name("step", names), "steps");
  EXPECT_EQ(nearest_name("learning-rate", names), "learning_rate");
  EXPECT_EQ(nearest_name("zzzzzz", names), "");
  EXPECT_EQ(did_you_mean("bach_size", names), "; did you mean 'batch_size'?");
}

TEST(Text, NearestNameKnowsPartsOfNames) {
  const std::vector<std::string> names{"type", "hidden_size", "num_layers", "num_heads", "num_kv_heads"};
  EXPECT_EQ(nearest_name("hidden", names), "hidden_size");
  EXPECT_EQ(nearest_name("heads", names), "num_heads");
  EXPECT_EQ(nearest_name("layers", names), "num_layers");
  EXPECT_EQ(nearest_name("model_type", names), "type");
  EXPECT_EQ(nearest_name("num_head", names), "num_heads");  // a misspelling before a part
  EXPECT_EQ(nearest_name("width", names), "");
  EXPECT_EQ(nearest_name("hid", names), "");  // half a word is no part
}

TEST(Text, Numbers) {
  EXPECT_EQ(with_commas(0), "0");
  EXPECT_EQ(with_commas(999), "999");
  EXPECT_EQ(with_commas(-1000), "-1,000");
  EXPECT_EQ(with_commas(-100), "-100");
  EXPECT_EQ(with_commas(1234567), "1,234,567");
  EXPECT_EQ(human_bytes(1536), "1.5 KiB");
  EXPECT_EQ(human_count(1234567), "1.23M");
  EXPECT_EQ(human_count(999.6), "1.00k");
  EXPECT_EQ(human_count(123.4), "123");
  EXPECT_EQ(human_count(12.34), "12.3");
  EXPECT_EQ(human_count(0.0214), "0.021");
  EXPECT_EQ(human_count(0), "0");
  EXPECT_EQ(human_duration(3725), "1:02:05");
  EXPECT_EQ(human_duration(65), "1:05");
}

}  // namespace
}  // namespace axial
