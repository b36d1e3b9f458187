// SPDX-License-Identifier: Apache-2.0
// Event files byte by byte; python/tests/test_tensorboard.py has TensorBoard itself read what
// EventFile.WritesAFolderForTensorBoard leaves in the folder named by AXIAL_EVENT_FOLDER.
#include "axial/train/metrics/event_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>

#include "axial/core/check/check.h"
#include "axial/core/file/file.h"

namespace axial::train {
namespace {

namespace fs = std::filesystem;

std::string hex(std::string_view bytes) {
  std::string text;
  for (const char c : bytes) text += fmt::format("{:02x}", static_cast<uint8_t>(c));
  return text;
}

TEST(EventFile, Crc32cOfTheCheckString) {
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);
  EXPECT_EQ(crc32c(""), 0u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);  // RFC 3720, B.4
}

TEST(EventFile, FrameAndEventAreThoseOfTensorBoard) {
  // From tensorboard's RecordWriter and its generated protobuf classes, for the same event.
  EXPECT_EQ(hex(tfrecord_frame(scalar_event(300, {{"loss/train", 3.25}, {"lr", 0.1}}, 1234.5))),
            "2c00000000000000f4aecc450900000000004a934010ac022a1e0a110a0a6c6f73732f747261696e15000050400a09"
            "0a026c7215cdcccc3dff8b8317");
}

TEST(EventFile, EveryFileOfAFolderHasItsOwnName) {
  const fs::path folder = fs::temp_directory_path() / fmt::format("axial_events_{}", ::getpid());
  const EventFile first(folder), second(folder);
  EXPECT_LT(first.path(), second.path());
  EXPECT_EQ(first.path().filename().string().rfind("events.out.tfevents.", 0), 0u);
  fs::remove_all(folder);
}

TEST(EventFile, AFolderThatCannotBeMadeIsNamed) {
  EXPECT_THROW(EventFile("/proc/no_such_folder/run"), IoError);
}

TEST(EventFile, WritesAFolderForTensorBoard) {
  const char* named = std::getenv("AXIAL_EVENT_FOLDER");
  const fs::path folder =
      named ? fs::path(named) / "run" : fs::temp_directory_path() / fmt::format("axial_run_{}", ::getpid());
  fs::path last;
  {
    EventFile file(folder);
    for (int64_t step = 0; step < 200; ++step) {
      file.add_scalars(step, {{"loss/train", 4.0 - 0.01 * static_cast<double>(step)}, {"lr", 1e-3}});
    }
  }
  {
    EventFile resumed(folder, 151);  // a run that went on from the checkpoint of step 150
    resumed.add_scalar("loss/train", 151, 7.0);
    resumed.add_scalar("loss/validation", int64_t{1} << 40, -1.5, 1e9);
    last = resumed.path();
  }
  // Two frames of 12 + 4 bytes around the head and the session start, then two scalars.
  const std::string bytes = read_file(last);
  EXPECT_EQ(static_cast<uint8_t>(bytes[0]), 9 + 3 + 2 + 13u) << "first record: file version only";
  EXPECT_NE(bytes.find("brain.Event:2"), std::string::npos);
  EXPECT_NE(bytes.find("loss/validation"), std::string::npos);
  if (!named) fs::remove_all(folder);
}

}  // namespace
}  // namespace axial::train
