// The driver fails at its n-th call, for every n: the right error, nothing left, no rule broken.
#include <map>
#include <set>

#include "base/size.h"
#include "device/cuda_device.h"
#include "device/simulation.h"
#include "io/temporary_file.h"
#include "memory/host_buffer.h"

namespace sllm {
namespace {

using testing::random_bytes;

constexpr std::uint64_t kBytes = kMiB;

// What a load does to a device, and what follows it.
void use_device(const std::shared_ptr<const CudaDriver>& driver) {
  const auto in = HostBuffer::allocate(kBytes);
  const auto out = HostBuffer::allocate(kBytes);
  const auto device = find_cuda_device(driver, "cuda:0");
  device->memory();
  const auto plain = device->allocate(kBytes, AllocationKind::kPlain);
  const auto shareable = device->allocate(kBytes, AllocationKind::kShareable);
  const auto imported = device->import_fd(shareable->export_fd(), kBytes);
  plain->export_ipc();
  const auto in_registration = device->register_host(in->bytes());
  const auto out_registration = device->register_host(out->bytes());
  const auto first = device->make_stream();
  const auto second = device->make_stream();
  first->copy_in(plain->address(), in->bytes());
  first->copy_in_rows({.to = shareable->address(),
                       .to_pitch = 200,
                       .from = in->bytes().data(),
                       .from_pitch = 300,
                       .row_bytes = 100,
                       .rows = 1000});
  first->copy_within(imported->address() + kBytes / 2, plain->address(), kBytes / 2);
  const auto copied = first->record();
  second->wait_for(*copied);
  second->copy_out(out->bytes(), shareable->address());
  const auto done = second->record();
  done->is_done();
  copied->wait();
  done->wait();
  first->finish();
}

// Where nothing can be done about an error: what makes a context current again, and what gives back.
const std::set<std::string> kSilent = {"cuCtxPopCurrent_v2", "cuDevicePrimaryCtxRelease_v2",
                                       "cuMemFree_v2",       "cuMemHostUnregister",
                                       "cuMemRelease",       "cuMemUnmap",
                                       "cuMemAddressFree",   "cuStreamDestroy_v2",
                                       "cuEventDestroy_v2",  "cuIpcCloseMemHandle"};

class DeviceFaults : public testing::SimulatedTest {
 protected:
  void SetUp() override {
    SimulatedTest::SetUp();
    simulation_.configure("");
    use_device(driver_);
    calls_ = simulation_.count("calls");
  }

  // The code of what is thrown, or "none".
  std::string outcome(const std::string& settings) {
    simulation_.configure(settings);
    std::string code = "none";
    try {
      use_device(driver_);
    } catch (const Error& error) {
      code = name_of(error.code());
    }
    simulation_.expect_clean();
    return code;
  }

  long long calls_ = 0;
};

// Calls of each function in a run without a fault.
std::map<std::string, long long> calls_by_function(const testing::Simulation& simulation) {
  std::map<std::string, long long> calls;
#define COUNT_CALLS(symbol, ...) \
  if (simulation.count(#symbol) > 0) calls[#symbol] = simulation.count(#symbol);
  SLLM_CUDA_FUNCTIONS(COUNT_CALLS)
#undef COUNT_CALLS
  return calls;
}

TEST_F(DeviceFaults, OfTheNthCallOfEachFunctionAreTheRightErrorAndLeaveNothing) {
  const auto calls = calls_by_function(simulation_);
  EXPECT_GT(calls.size(), 30U);
  for (const auto& [function, count] : calls) {
    for (long long at = 0; at < count; ++at) {
      SCOPED_TRACE(function + " call " + std::to_string(at));
      const std::string fault = "fail=" + function + ":" + std::to_string(at) + ":";
      const std::string code = outcome(fault + "719");
      if (kSilent.contains(function)) {
        EXPECT_EQ(code, "none");
      } else if (function != "cuCtxPushCurrent_v2" && function != "cuStreamSynchronize") {
        EXPECT_EQ(code, "device");
        EXPECT_EQ(outcome(fault + "2"), "exhausted");
        EXPECT_EQ(outcome(fault + "801"), "unsupported");
      } else if (at == 0) {
        EXPECT_EQ(code, "device");  // later ones may be those of destructors
      }
    }
  }
}

TEST_F(DeviceFaults, OfAnyCallThatFollowsLeaveNothing) {
  for (long long at = 0; at < calls_; ++at) {
    SCOPED_TRACE(at);
    const std::string code = outcome("fail=*:" + std::to_string(at) + ":700");
    EXPECT_TRUE(code == "device" || code == "none") << code;
  }
}

TEST_F(DeviceFaults, OfCopiesUnderWaySurfaceInEventsAndInFinish) {
  for (long long at = 0; at < 4; ++at) {
    SCOPED_TRACE(at);
    EXPECT_EQ(outcome("fail=copy:" + std::to_string(at) + ":700"), "device");
  }
  EXPECT_EQ(outcome("fail=copy:4:700"), "none");
}

TEST_F(DeviceFaults, OfACopyIsThrownByItsOwnEvent) {
  simulation_.configure("fail=copy:0:700");
  const auto device = find_cuda_device(driver_, "cuda:0");
  const auto in = HostBuffer::allocate(kBytes);
  const auto registration = device->register_host(in->bytes());
  const auto memory = device->allocate(kBytes, AllocationKind::kPlain);
  const auto stream = device->make_stream();
  stream->copy_in(memory->address(), in->bytes());
  const auto event = stream->record();
  const Error error = testing::error_of([&] { event->wait(); });
  EXPECT_EQ(name_of(error.code()), "device");
  EXPECT_TRUE(testing::says(error, "copies on cuda:0 failed: CUDA_ERROR_ILLEGAL_ADDRESS")) << error.what();
  EXPECT_EQ(name_of(testing::error_of([&] { event->is_done(); }).code()), "device");
  EXPECT_EQ(name_of(testing::error_of([&] { stream->finish(); }).code()), "device");
}

TEST_F(DeviceFaults, OfADeviceThatDisappearsAreDeviceErrorsAndLeaveNothing) {
  for (long long at = 0; at < calls_; ++at) {
    SCOPED_TRACE(at);
    const std::string code = outcome("lost=" + std::to_string(at));
    EXPECT_TRUE(code == "device" || code == "none") << code;
  }
}

TEST_F(DeviceFaults, LeaveTheNextLoadOnTheSameDeviceAlone) {
  EXPECT_EQ(outcome("fail=copy:1:700"), "device");
  EXPECT_EQ(outcome(""), "none");
  EXPECT_EQ(outcome("lost=50"), "device");
  EXPECT_EQ(outcome(""), "none");
}

}  // namespace
}  // namespace sllm
