// What is a GPU's own: its names, its links, its context, its pinned memory.
#include "device/cuda_device.h"

#include <thread>

#include "base/clock.h"
#include "base/size.h"
#include "device/device_bytes.h"
#include "device/peer.h"
#include "device/simulation.h"
#include "io/temporary_file.h"
#include "memory/host_buffer.h"

namespace sllm {
namespace {

using testing::error_of;
using testing::get;
using testing::put;
using testing::random_bytes;
using testing::run_peer;
using testing::says;

class SimulatedDevice : public testing::SimulatedTest {};

TEST_F(SimulatedDevice, IsFoundByNumberAndByUuid) {
  EXPECT_EQ(find_cuda_device(driver_, "cuda")->name(), "cuda:0");
  EXPECT_EQ(find_cuda_device(driver_, "cuda:1")->name(), "cuda:1");
  const Uuid uuid = driver_->uuid_of(1);
  EXPECT_NE(uuid, driver_->uuid_of(0));
  EXPECT_EQ(find_cuda_device(driver_, "cuda:" + uuid_text(uuid))->name(), "cuda:1");
  EXPECT_EQ(find_cuda_device(driver_, "cuda:GPU-" + uuid_text(uuid))->uuid(), uuid);
}

TEST_F(SimulatedDevice, IsMissedWithTheNumberOfThoseThatAreThere) {
  for (const char* name : {"cuda:2", "cuda:-1", "cuda:", "cuda:x", "cuda:1x", "cuda:99999999999",
                           "cuda:00112233-4455-6677-8899-aabbccddeeff"}) {
    const Error error = error_of([&] { find_cuda_device(driver_, name); });
    EXPECT_EQ(name_of(error.code()), "invalid") << name;
    EXPECT_TRUE(says(error, std::string("no device ") + name)) << error.what();
    EXPECT_TRUE(says(error, "has 2, cuda:0 to cuda:1")) << error.what();
  }
}

TEST(FindDevice, KnowsTheHostAndNoOtherKind) {
  EXPECT_EQ(find_device("cpu")->kind(), DeviceKind::kHost);
  for (const char* name : {"", "gpu", "cudas", "cpu:0"}) {
    EXPECT_EQ(name_of(error_of([&] { find_device(name); }).code()), "invalid") << name;
  }
}

// In a process of its own, since a process looks for its driver until it has one.
TEST(FindDevice, TakesTheDriverThatTheEnvironmentNames) {
  {
    const testing::EnvironmentVariable named("SLLM_CUDA_DRIVER", "libcuda-of-this-test.so");
    const auto peer = run_peer({"environment", "cuda", "nothing"});
    EXPECT_NE(peer.stderr_text.find("unsupported: cannot load the CUDA driver libcuda-of-this-test.so"),
              std::string::npos)
        << peer.stderr_text;
  }
  const testing::EnvironmentVariable named("SLLM_CUDA_DRIVER", CUDA_SIM_LIBRARY);
  const auto peer = run_peer({"environment", "cuda", "nothing"});
  EXPECT_EQ(peer.status, 0) << peer.stderr_text;
}

TEST_F(SimulatedDevice, HasThePrimaryContextWhileSomethingOfItLives) {
  auto device = find_cuda_device(driver_, "cuda:0");
  const auto same = find_cuda_device(driver_, "cuda:0");
  EXPECT_EQ(simulation_.count("contexts"), 1);
  auto memory = find_cuda_device(driver_, "cuda:1")->allocate(kMiB, AllocationKind::kPlain);
  EXPECT_EQ(simulation_.count("contexts"), 2);
  memory.reset();
  EXPECT_EQ(simulation_.count("contexts"), 1);
}

TEST_F(SimulatedDevice, LeavesTheThreadsContextAsItWas) {
  const auto first = find_cuda_device(driver_, "cuda:0");
  const auto second = find_cuda_device(driver_, "cuda:1");
  EXPECT_EQ(simulation_.count("entered"), 0);
  cuda::Context others = nullptr;
  ASSERT_EQ(driver_->functions().cuDevicePrimaryCtxRetain(&others, 1), cuda::Result::kSuccess);
  ASSERT_EQ(driver_->functions().cuCtxPushCurrent_v2(others), cuda::Result::kSuccess);
  const auto bytes = random_bytes(1000);
  const auto memory = first->allocate(bytes.size(), AllocationKind::kPlain);
  put(*first, memory->address(), bytes);
  EXPECT_THROW(first->allocate(std::uint64_t{1} << 60, AllocationKind::kPlain), Error);
  EXPECT_EQ(simulation_.count("entered"), 1);
  cuda::Context current = nullptr;
  ASSERT_EQ(driver_->functions().cuCtxPopCurrent_v2(&current), cuda::Result::kSuccess);
  EXPECT_EQ(current, others);
  driver_->functions().cuDevicePrimaryCtxRelease_v2(1);
}

TEST_F(SimulatedDevice, CopiesRegisteredMemoryWithoutHoldingTheCallerUp) {
  simulation_.configure("devices=2,h2d=1e8");
  const auto device = find_cuda_device(driver_, "cuda:0");
  const auto other = find_cuda_device(driver_, "cuda:1");
  const auto staging = HostBuffer::allocate(8 * kMiB);
  const auto registration = device->register_host(staging->bytes());
  for (const auto& each : {device, other}) {
    const auto memory = each->allocate(8 * kMiB, AllocationKind::kPlain);
    const auto stream = each->make_stream();
    stream->copy_in(memory->address(), staging->bytes());
    const auto event = stream->record();
    EXPECT_FALSE(event->is_done());  // 84 ms on the way
    stream->finish();
    EXPECT_TRUE(event->is_done());
  }
  EXPECT_EQ(simulation_.count("pageable_copies"), 0);
}

TEST_F(SimulatedDevice, HoldsTheCallerUpForMemoryThatIsNotRegistered) {
  const auto device = find_cuda_device(driver_, "cuda:0");
  const auto bytes = random_bytes(kMiB);
  const auto memory = device->allocate(bytes.size(), AllocationKind::kPlain);
  put(*device, memory->address(), bytes);
  EXPECT_EQ(simulation_.count("pageable_copies"), 1);
}

TEST_F(SimulatedDevice, TakesTheTimeThatItsLinkTakes) {
  simulation_.configure("h2d=1e8,d2h=1e8");
  const auto device = find_cuda_device(driver_, "cuda:0");
  const auto staging = HostBuffer::allocate(4 * kMiB);
  const auto registration = device->register_host(staging->bytes());
  const auto memory = device->allocate(8 * kMiB, AllocationKind::kPlain);
  const auto first = device->make_stream();
  const auto second = device->make_stream();
  const Stopwatch watch;
  first->copy_in(memory->address(), staging->bytes());
  second->copy_in(memory->address() + 4 * kMiB, staging->bytes());
  first->finish();
  second->finish();
  // Two streams share one link.
  EXPECT_GE(watch.elapsed_s(), 8 * kMiB / 1e8);
  first->copy_out(staging->bytes(), memory->address());
  first->finish();
  EXPECT_GE(watch.elapsed_s(), 12 * kMiB / 1e8);
  EXPECT_EQ(simulation_.count("h2d_bytes"), static_cast<long long>(8 * kMiB));
  EXPECT_EQ(simulation_.count("d2h_bytes.0"), static_cast<long long>(4 * kMiB));
  EXPECT_GE(simulation_.count("h2d_busy_us"), 83'000);
}

TEST_F(SimulatedDevice, SaysWhatItCouldNotPin) {
  simulation_.configure("register_limit=1MiB");
  const auto device = find_cuda_device(driver_, "cuda:0");
  const auto staging = HostBuffer::allocate(2 * kMiB);
  const Error error = error_of([&] { device->register_host(staging->bytes()); });
  EXPECT_EQ(name_of(error.code()), "exhausted");
  EXPECT_TRUE(says(error, "cannot pin 2097152 bytes")) << error.what();
  const auto half = device->register_host(staging->bytes().first(kMiB));
  EXPECT_EQ(name_of(error_of([&] { device->register_host(staging->bytes().first(1)); }).code()), "conflict");
}

TEST_F(SimulatedDevice, CannotBeTouchedByTheHost) {
  EXPECT_NE(run_peer({CUDA_SIM_LIBRARY, "cuda:0", "touch"}).status, 0);
}

// A wait that is left out is a wrong byte, and a race that ThreadSanitizer reports.
void expect_caught(const std::string& role) {
  const testing::EnvironmentVariable settings("SLLM_CUDA_SIM", "h2d=1e8");
  const auto waiting = run_peer({CUDA_SIM_LIBRARY, "cuda:0", role + "-after-waiting"});
  EXPECT_EQ(waiting.status, 0) << waiting.stderr_text;
  const auto at_once = run_peer({CUDA_SIM_LIBRARY, "cuda:0", role + "-at-once"});
#ifdef __SANITIZE_THREAD__
  EXPECT_NE(at_once.stderr_text.find("ThreadSanitizer: data race"), std::string::npos) << at_once.stderr_text;
#else
  EXPECT_EQ(at_once.status, 1) << at_once.stderr_text;
#endif
}

TEST_F(SimulatedDevice, CatchesStagingMemoryThatIsReusedWithoutWaiting) { expect_caught("reuse"); }

TEST_F(SimulatedDevice, CatchesAStreamThatDoesNotWaitForAnother) { expect_caught("cross"); }

TEST_F(SimulatedDevice, SaysAtExitWhatWasForgotten) {
  const testing::EnvironmentVariable no_leaks("ASAN_OPTIONS", "detect_leaks=0");
  const auto peer = run_peer({CUDA_SIM_LIBRARY, "cuda:0", "forget"});
  for (const char* line :
       {"1 contexts left", "1 streams left", "1 events left", "1 allocations left", "1 registrations left",
        "1 placements left", "1 reservations left", "1 handles left"}) {
    EXPECT_NE(peer.stderr_text.find(line), std::string::npos) << peer.stderr_text;
  }
}

}  // namespace
}  // namespace sllm
