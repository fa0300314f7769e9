// The simulated driver refuses what a driver refuses, and writes it down.
#include "cuda_sim/cuda_sim.h"

#include <thread>

#include "base/size.h"
#include "device/simulation.h"
#include "io/temporary_file.h"
#include "memory/host_buffer.h"

namespace sllm {
namespace {

using cuda::Result;
using testing::random_bytes;

// The driver's functions as they are, in the context of a device.
class CudaSim : public ::testing::Test {
 protected:
  void SetUp() override {
    simulation_.configure("devices=2");
    driver_ = CudaDriver::load(CUDA_SIM_LIBRARY);
    call_ = driver_->functions();
    for (int device = 0; device < 2; ++device) {
      ASSERT_EQ(call_.cuDevicePrimaryCtxRetain(&contexts_[device], device), Result::kSuccess);
    }
    ASSERT_EQ(call_.cuCtxPushCurrent_v2(contexts_[0]), Result::kSuccess);
    ASSERT_EQ(call_.cuStreamCreate(&stream_, cuda::kStreamNonBlocking), Result::kSuccess);
    ASSERT_EQ(call_.cuMemAlloc_v2(&address_, kMiB), Result::kSuccess);
    ASSERT_EQ(call_.cuMemHostRegister_v2(host_->bytes().data(), kMiB, 0), Result::kSuccess);
  }
  void TearDown() override {
    call_.cuStreamSynchronize(stream_);
    if (stream_ != nullptr) call_.cuStreamDestroy_v2(stream_);
    if (address_ != 0) call_.cuMemFree_v2(address_);
    call_.cuMemHostUnregister(host_->bytes().data());
    call_.cuCtxPopCurrent_v2(nullptr);
    call_.cuDevicePrimaryCtxRelease_v2(0);
    call_.cuDevicePrimaryCtxRelease_v2(1);
    simulation_.configure("");
    simulation_.expect_clean();
  }

  void expect_violation(const char* text) {
    EXPECT_EQ(simulation_.count("violations"), 1) << simulation_.report();
    EXPECT_NE(simulation_.report().find(text), std::string::npos) << simulation_.report();
    simulation_.configure("devices=2");
  }

  const testing::Simulation& simulation_ = testing::Simulation::get();
  std::shared_ptr<const CudaDriver> driver_;
  cuda::Functions call_;
  cuda::Context contexts_[2] = {};
  cuda::Stream stream_ = nullptr;
  cuda::Address address_ = 0;
  std::shared_ptr<HostBuffer> host_ = HostBuffer::allocate(kMiB);
};

TEST_F(CudaSim, RefusesWorkWithoutAContext) {
  Result result = Result::kSuccess;
  std::thread([&] { result = call_.cuMemFree_v2(address_); }).join();
  EXPECT_EQ(result, Result::kInvalidContext);
  expect_violation("cuMemFree_v2: no context is current");
}

TEST_F(CudaSim, RefusesHandlesOfAnotherContext) {
  ASSERT_EQ(call_.cuCtxPushCurrent_v2(contexts_[1]), Result::kSuccess);
  EXPECT_EQ(call_.cuMemFree_v2(address_), Result::kInvalidContext);
  expect_violation("memory of another device");
  EXPECT_EQ(call_.cuStreamSynchronize(stream_), Result::kInvalidHandle);
  expect_violation("no such stream in the current context");
  ASSERT_EQ(call_.cuCtxPopCurrent_v2(nullptr), Result::kSuccess);
}

TEST_F(CudaSim, RefusesToFreeTwice) {
  EXPECT_EQ(call_.cuMemFree_v2(address_), Result::kSuccess);
  EXPECT_EQ(call_.cuMemFree_v2(address_), Result::kInvalidValue);
  expect_violation("freed already");
  EXPECT_EQ(call_.cuMemcpyHtoDAsync_v2(address_, host_->bytes().data(), 1, stream_), Result::kInvalidValue);
  expect_violation("not all device memory");
  address_ = 0;
}

TEST_F(CudaSim, RefusesCopiesOutOfRange) {
  const void* from = host_->bytes().data();
  EXPECT_EQ(call_.cuMemcpyHtoDAsync_v2(address_ + 1, from, kMiB, stream_), Result::kInvalidValue);
  expect_violation("1048576 bytes that are not all device memory");
  const auto host_address = reinterpret_cast<cuda::Address>(from);
  EXPECT_EQ(call_.cuMemcpyHtoDAsync_v2(host_address, from, 1, stream_), Result::kInvalidValue);
  expect_violation("not all device memory");
}

TEST_F(CudaSim, RefusesHandlesThatAreDestroyed) {
  cuda::Event event = nullptr;
  ASSERT_EQ(call_.cuEventCreate(&event, 0), Result::kSuccess);
  EXPECT_EQ(call_.cuEventQuery(event), Result::kSuccess);  // never recorded
  ASSERT_EQ(call_.cuEventDestroy_v2(event), Result::kSuccess);
  EXPECT_EQ(call_.cuEventSynchronize(event), Result::kInvalidHandle);
  expect_violation("no such event");
  ASSERT_EQ(call_.cuStreamDestroy_v2(stream_), Result::kSuccess);
  EXPECT_EQ(call_.cuStreamDestroy_v2(stream_), Result::kInvalidHandle);
  expect_violation("no such stream");
  ASSERT_EQ(call_.cuStreamCreate(&stream_, 0), Result::kSuccess);
}

TEST_F(CudaSim, NotesMemoryThatIsGivenBackUnderACopy) {
  simulation_.configure("devices=2,h2d=1e8");
  ASSERT_EQ(call_.cuMemcpyHtoDAsync_v2(address_, host_->bytes().data(), kMiB, stream_), Result::kSuccess);
  EXPECT_EQ(call_.cuMemHostUnregister(host_->bytes().data()), Result::kSuccess);
  expect_violation("cuMemHostUnregister with copies that nobody waited for");
  ASSERT_EQ(call_.cuMemHostRegister_v2(host_->bytes().data(), kMiB, 0), Result::kSuccess);
  ASSERT_EQ(call_.cuMemcpyHtoDAsync_v2(address_, host_->bytes().data(), kMiB, stream_), Result::kSuccess);
  EXPECT_EQ(call_.cuMemFree_v2(address_), Result::kSuccess);
  expect_violation("cuMemFree_v2 with copies that nobody waited for");
  address_ = 0;
}

// It is the waiting that counts, not whether the copy happens to be over.
TEST_F(CudaSim, NotesStreamsThatAreDestroyedUnwaitedFor) {
  ASSERT_EQ(call_.cuMemcpyHtoDAsync_v2(address_, host_->bytes().data(), 1, stream_), Result::kSuccess);
  EXPECT_EQ(call_.cuStreamDestroy_v2(stream_), Result::kSuccess);
  expect_violation("copies that nobody waited for");
  ASSERT_EQ(call_.cuStreamCreate(&stream_, 0), Result::kSuccess);
}

TEST_F(CudaSim, KnowsByOneStreamsEventWhatAnotherDid) {
  cuda::Stream other = nullptr;
  cuda::Event between = nullptr;
  ASSERT_EQ(call_.cuStreamCreate(&other, 0), Result::kSuccess);
  ASSERT_EQ(call_.cuEventCreate(&between, 0), Result::kSuccess);
  ASSERT_EQ(call_.cuMemcpyHtoDAsync_v2(address_, host_->bytes().data(), kMiB, other), Result::kSuccess);
  ASSERT_EQ(call_.cuEventRecord(between, other), Result::kSuccess);
  ASSERT_EQ(call_.cuStreamWaitEvent(stream_, between, 0), Result::kSuccess);
  ASSERT_EQ(call_.cuStreamSynchronize(stream_), Result::kSuccess);
  EXPECT_EQ(call_.cuMemFree_v2(address_), Result::kSuccess);
  EXPECT_EQ(call_.cuStreamDestroy_v2(other), Result::kSuccess);
  EXPECT_EQ(call_.cuEventDestroy_v2(between), Result::kSuccess);
  EXPECT_EQ(simulation_.count("violations"), 0) << simulation_.report();
  address_ = 0;
}

TEST_F(CudaSim, RefusesAddressesThatAreStillInUse) {
  const cuda::AllocationProperties properties{
      .type = 1, .handle_types = 1, .location = {1, 0}, .win32_metadata = nullptr, .flags = {}};
  constexpr std::uint64_t kPage = 2 * kMiB;
  cuda::MemoryHandle handle = 0;
  cuda::Address range = 0;
  ASSERT_EQ(call_.cuMemCreate(&handle, kPage, &properties, 0), Result::kSuccess);
  ASSERT_EQ(call_.cuMemAddressReserve(&range, kPage, 0, 0, 0), Result::kSuccess);
  ASSERT_EQ(call_.cuMemMap(range, kPage, 0, handle, 0), Result::kSuccess);
  EXPECT_EQ(call_.cuMemcpyHtoDAsync_v2(range, host_->bytes().data(), 1, stream_), Result::kInvalidValue);
  expect_violation("may not touch");
  EXPECT_EQ(call_.cuMemAddressFree(range, kPage), Result::kInvalidValue);
  expect_violation("still placed there");
  EXPECT_EQ(call_.cuMemRelease(handle), Result::kSuccess);
  EXPECT_EQ(call_.cuMemRelease(handle), Result::kInvalidValue);
  expect_violation("released");
  EXPECT_EQ(simulation_.count("allocated_bytes"), static_cast<long long>(kPage + kMiB));
  EXPECT_EQ(call_.cuMemUnmap(range, kPage), Result::kSuccess);
  EXPECT_EQ(call_.cuMemAddressFree(range, kPage), Result::kSuccess);
  EXPECT_EQ(simulation_.count("allocated_bytes"), static_cast<long long>(kMiB));
}

TEST_F(CudaSim, NotesWhatAContextStillHasWhenItEnds) {
  ASSERT_EQ(call_.cuCtxPushCurrent_v2(contexts_[1]), Result::kSuccess);
  cuda::Address forgotten = 0;
  ASSERT_EQ(call_.cuMemAlloc_v2(&forgotten, 1), Result::kSuccess);
  ASSERT_EQ(call_.cuCtxPopCurrent_v2(nullptr), Result::kSuccess);
  ASSERT_EQ(call_.cuDevicePrimaryCtxRelease_v2(1), Result::kSuccess);
  expect_violation("a context ended with 1 objects in it");
  ASSERT_EQ(call_.cuDevicePrimaryCtxRetain(&contexts_[1], 1), Result::kSuccess);
}

TEST_F(CudaSim, FailsTheNthCallAndNoOther) {
  simulation_.configure("devices=2,fail=cuMemGetInfo_v2:1:719,fail=cuEventCreate:0:2");
  std::size_t free_bytes = 0;
  std::size_t total_bytes = 0;
  EXPECT_EQ(call_.cuMemGetInfo_v2(&free_bytes, &total_bytes), Result::kSuccess);
  EXPECT_EQ(call_.cuMemGetInfo_v2(&free_bytes, &total_bytes), Result::kLaunchFailed);
  EXPECT_EQ(call_.cuMemGetInfo_v2(&free_bytes, &total_bytes), Result::kSuccess);
  cuda::Event event = nullptr;
  EXPECT_EQ(call_.cuEventCreate(&event, 0), Result::kOutOfMemory);
  EXPECT_EQ(simulation_.count("cuMemGetInfo_v2"), 3);
  EXPECT_EQ(simulation_.count("calls"), 4);
}

TEST_F(CudaSim, ReadsItsSettings) {
  const auto configure = [](const char* text) { testing::Simulation::get().configure(text); };
  configure(
      "devices=2,memory=3MiB,latency_us=0,d2d=1e9,no_ipc=1,version=13000,report=x,fail=*:7:2,lost=100,"
      "populate=1");
  std::size_t free_bytes = 0;
  std::size_t total_bytes = 0;
  ASSERT_EQ(call_.cuMemGetInfo_v2(&free_bytes, &total_bytes), Result::kSuccess);
  EXPECT_EQ(total_bytes, 3 * kMiB);
  EXPECT_EQ(free_bytes, 2 * kMiB);
  configure("devices=2");
  EXPECT_EQ(simulation_.count("no such count"), -1);
}

TEST_F(CudaSim, RefusesSettingsThatItDoesNotKnow) {
  for (const char* text : {"device=1", "devices", "devices=", "devices=17", "memory=1TB", "h2d=-1",
                           "fail=cuInit", "fail=cuInit:x:1", "=1"}) {
    EXPECT_FALSE(simulation_.understands(text)) << text;
  }
}

}  // namespace
}  // namespace sllm
