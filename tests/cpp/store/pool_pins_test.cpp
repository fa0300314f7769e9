#include "store/pool_pins.h"

#include "base/size.h"
#include "device/cuda_device.h"
#include "device/device_bytes.h"
#include "device/host_device.h"
#include "device/simulation.h"
#include "io/temporary_file.h"

namespace sllm {
namespace {

using testing::error_of;

constexpr std::uint64_t kChunk = 4 * kMiB;

class PoolPinsTest : public testing::SimulatedTest {
 protected:
  std::shared_ptr<Device> device() const { return find_cuda_device(driver_, "cuda:0"); }

  ChunkPool pool_{16 * kChunk, kChunk};
};

TEST_F(PoolPinsTest, PinsTouchedChunksOnceAndNeighboursTogether) {
  pool_.note_touched({1, 3});
  pool_.note_touched({8, 2});
  PoolPins pins(pool_, device());
  EXPECT_EQ(pins.pin({0, 16}), 5 * kChunk);
  EXPECT_EQ(simulation_.count("registrations"), 2);
  EXPECT_EQ(pins.pin({0, 16}), 0U);
  pool_.note_touched({4, 1});
  EXPECT_EQ(pins.pin({5, 11}), 0U);
  EXPECT_EQ(pins.pin({0, 16}), kChunk);
  EXPECT_EQ(pins.pinned_bytes(), 6 * kChunk);
  EXPECT_EQ(simulation_.count("registered_bytes"), static_cast<long long>(6 * kChunk));
  EXPECT_FALSE(pins.has_met_limit());
}

TEST_F(PoolPinsTest, LetsGoOfAllWithItsEnd) {
  pool_.note_touched({0, 16});
  PoolPins(pool_, device()).pin({0, 16});
  EXPECT_EQ(simulation_.count("registered_bytes"), 0);
}

TEST_F(PoolPinsTest, PinsAsMuchAsALimitLetsAndThenNoMore) {
  simulation_.configure("devices=2,register_limit=44MiB");
  pool_.note_touched({0, 16});
  PoolPins pins(pool_, device());
  EXPECT_EQ(pins.pin({0, 16}), 11 * kChunk);
  EXPECT_TRUE(pins.has_met_limit());
  EXPECT_EQ(pins.pin({0, 16}), 0U);
  EXPECT_EQ(pins.pinned_bytes(), 11 * kChunk);
}

TEST_F(PoolPinsTest, TakesAnyRefusalForALimit) {
  simulation_.configure("devices=2,fail=cuMemHostRegister_v2:0:999");
  pool_.note_touched({0, 1});
  PoolPins pins(pool_, device());
  EXPECT_EQ(pins.pin({0, 1}), 0U);
  EXPECT_TRUE(pins.has_met_limit());
}

TEST_F(PoolPinsTest, RefusesChunksThatThePoolLacks) {
  PoolPins pins(pool_, device());
  EXPECT_EQ(name_of(error_of([&] { pins.pin({0, 17}); }).code()), "invalid");
}

TEST_F(PoolPinsTest, PinnedChunksAreCopiedFrom) {
  pool_.note_touched({0, 2});
  const auto bytes = testing::random_bytes(2 * kChunk);
  std::copy(bytes.begin(), bytes.end(), pool_.memory().begin());
  const auto device = this->device();
  PoolPins pins(pool_, device);
  pins.pin({0, 2});
  const auto memory = device->allocate(kChunk, AllocationKind::kPlain);
  const auto stream = device->make_stream();
  stream->copy_in(memory->address(), pool_.memory({1, 1}));
  stream->finish();
  EXPECT_EQ(simulation_.count("pageable_copies"), 0);
  EXPECT_TRUE(std::equal(bytes.begin() + kChunk, bytes.end(),
                         testing::get(*device, memory->address(), kChunk).begin()));
}

TEST(PoolPins, AreNothingOnTheHost) {
  ChunkPool pool(2 * kChunk, kChunk);
  pool.note_touched({0, 2});
  PoolPins pins(pool, std::make_shared<HostDevice>());
  EXPECT_EQ(pins.pin({0, 2}), 2 * kChunk);
}

}  // namespace
}  // namespace sllm
