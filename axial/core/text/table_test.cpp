// SPDX-License-Identifier: Apache-2.0
#include "axial/core/text/table.h"

#include <gtest/gtest.h>

#include "axial/core/check/check.h"

namespace axial {
namespace {

TEST(TextTable, AlignsColumns) {
  TextTable table({{"model"}, {"perplexity", Align::kRight}, {"note"}});
  table.add_row({"uniform", "62.00", ""});
  table.add_rule();
  table.add_row({"\xce\xb1-gram", "7.5", "best"});
  EXPECT_EQ(table.render(),
            "model    perplexity  note\n"
            "-------  ----------  ----\n"
            "uniform       62.00\n"
            "-------  ----------  ----\n"
            "\xce\xb1-gram          7.5  best\n");
}

TEST(TextTable, RefusesRowsOfAnotherWidth) {
  TextTable table({{"a"}, {"b"}});
  EXPECT_THROW(table.add_row({"only one"}), ValueError);
  EXPECT_THROW(table.add_row({}), ValueError);
  EXPECT_THROW(TextTable({}), ValueError);
}

}  // namespace
}  // namespace axial
