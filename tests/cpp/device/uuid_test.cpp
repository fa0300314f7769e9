#include "device/uuid.h"

#include <gtest/gtest.h>

namespace sllm {
namespace {

constexpr Uuid kUuid = {0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77,
                        0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff};

TEST(Uuid, IsTheSameAfterBeingText) {
  EXPECT_EQ(uuid_text(kUuid), "00112233-4455-6677-8899-aabbccddeeff");
  EXPECT_EQ(parse_uuid(uuid_text(kUuid)), kUuid);
}

TEST(Uuid, IsReadAsNvidiaSmiPrintsIt) {
  EXPECT_EQ(parse_uuid("GPU-00112233-4455-6677-8899-aabbccddeeff"), kUuid);
  EXPECT_EQ(parse_uuid("MIG-00112233-4455-6677-8899-AABBCCDDEEFF"), kUuid);
}

TEST(Uuid, IsNothingElse) {
  for (const char* text :
       {"", "0", "GPU-", "00112233-4455-6677-8899-aabbccddeef", "00112233445566778899aabbccddeeff",
        "0011223g-4455-6677-8899-aabbccddeeff", "00112233-4455-6677-8899-aabbccddeefff",
        "00112233-4455-6677-8899a-abbccddeeff", "+0112233-4455-6677-8899-aabbccddeeff"}) {
    EXPECT_FALSE(parse_uuid(text)) << text;
  }
}

}  // namespace
}  // namespace sllm
