#include "device/cuda_driver.h"

#include <sys/wait.h>
#include <unistd.h>

#include "device/cuda_device.h"
#include "device/simulation.h"
#include "io/temporary_file.h"

namespace sllm {
namespace {

using testing::error_of;
using testing::says;

Error refusal_of(const std::string& library) {
  const Error error = error_of([&] { CudaDriver::load(library); });
  EXPECT_EQ(name_of(error.code()), "unsupported");
  EXPECT_TRUE(says(error, library)) << error.what();
  return error;
}

TEST(CudaDriverTest, SaysThatThereIsNone) {
  EXPECT_TRUE(says(refusal_of("libcuda-that-is-not-there.so.1"), "cannot load the CUDA driver"));
}

TEST(CudaDriverTest, SaysThatAFileIsNoLibrary) {
  const testing::TemporaryFile garbage(testing::random_bytes(5000));
  EXPECT_TRUE(says(refusal_of(garbage.path()), "cannot load the CUDA driver"));
}

TEST(CudaDriverTest, SaysWhatALibraryLacks) { EXPECT_TRUE(says(refusal_of("libm.so.6"), "it lacks cuInit")); }

class SimulatedDriver : public testing::SimulatedTest {};

TEST_F(SimulatedDriver, IsRefusedWhenItIsTooOld) {
  simulation_.configure("version=11030");
  EXPECT_TRUE(says(refusal_of(CUDA_SIM_LIBRARY), "it is of CUDA 11.3, and 11.4 is needed"));
  simulation_.configure("version=11040");
  EXPECT_NE(CudaDriver::load(CUDA_SIM_LIBRARY), nullptr);
}

TEST_F(SimulatedDriver, IsRefusedWhenItDoesNotStart) {
  simulation_.configure("fail=cuInit:0:999");
  EXPECT_TRUE(says(refusal_of(CUDA_SIM_LIBRARY), "CUDA_ERROR_UNKNOWN"));
  EXPECT_NE(CudaDriver::load(CUDA_SIM_LIBRARY), nullptr);  // the next one who asks may have more luck
}

TEST_F(SimulatedDriver, IsRefusedWhenItHasNoDevice) {
  simulation_.configure("devices=0");
  EXPECT_TRUE(says(refusal_of(CUDA_SIM_LIBRARY), "CUDA_ERROR_NO_DEVICE"));
}

TEST_F(SimulatedDriver, NamesTheErrorAndItsNumberWhereItHasNoName) {
  EXPECT_STREQ(driver_->error(cuda::Result::kOutOfMemory, "cannot x").what(),
               "cannot x: CUDA_ERROR_OUT_OF_MEMORY (out of memory)");
  EXPECT_STREQ(driver_->error(static_cast<cuda::Result>(12345), "cannot x").what(),
               "cannot x: CUDA error 12345");
}

// A child that did not start the driver itself: what the exit status says is what it was told.
int exit_status_of_fork(const std::function<void()>& in_child) {
  const pid_t child = ::fork();
  if (child == 0) {
    int status = 0;
    try {
      in_child();
      if (testing::Simulation::get().count("calls_after_fork") > 0) status = 3;
    } catch (const Error& error) {
      status = error.code() == ErrorCode::kUnsupported && says(error, "spawn") ? 1 : 2;
    }
    ::_exit(status);
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return WEXITSTATUS(status);
}

TEST_F(SimulatedDriver, IsRefusedInAForkedChild) {
  const auto device = find_cuda_device(driver_, "cuda:0");
  EXPECT_EQ(exit_status_of_fork([&] { find_cuda_device(driver_, "cuda:0"); }), 1);
  EXPECT_EQ(exit_status_of_fork([&] { device->allocate(1, AllocationKind::kPlain); }), 1);
  EXPECT_EQ(exit_status_of_fork([&] { device->allocate(1, AllocationKind::kShareable); }), 1);
  EXPECT_EQ(exit_status_of_fork([&] { device->memory(); }), 1);
  EXPECT_EQ(exit_status_of_fork([&] { CudaDriver::load(CUDA_SIM_LIBRARY); }), 1);
}

TEST_F(SimulatedDriver, IsLeftAloneByWhatAForkedChildDestroys) {
  const auto device = find_cuda_device(driver_, "cuda:0");
  auto plain = device->allocate(1, AllocationKind::kPlain);
  auto shareable = device->allocate(1, AllocationKind::kShareable);
  auto stream = device->make_stream();
  auto event = stream->record();
  EXPECT_EQ(exit_status_of_fork([&] {
              event.reset();
              stream.reset();
              shareable.reset();
              plain.reset();
            }),
            0);
  plain.reset();
  EXPECT_EQ(simulation_.count("cuMemFree_v2"), 1);
}

// Every result that the driver's manual names, and what a caller can do about it.
TEST(CodeOfResult, IsDeviceUnlessACallerCanDoMore) {
  const std::map<int, ErrorCode> others = {
      {2, ErrorCode::kExhausted},     {34, ErrorCode::kUnsupported},  {100, ErrorCode::kUnsupported},
      {712, ErrorCode::kConflict},    {800, ErrorCode::kUnsupported}, {801, ErrorCode::kUnsupported},
      {802, ErrorCode::kUnsupported}, {803, ErrorCode::kUnsupported}, {804, ErrorCode::kUnsupported}};
  for (int number = 1; number <= 1000; ++number) {
    const auto other = others.find(number);
    EXPECT_EQ(code_of_result(static_cast<cuda::Result>(number)),
              other == others.end() ? ErrorCode::kDevice : other->second)
        << number;
  }
}

}  // namespace
}  // namespace sllm
