// Memory that another process exported, over real descriptors and processes.
#include "base/size.h"
#include "device/cuda_device.h"
#include "device/device_bytes.h"
#include "device/host_device.h"
#include "device/peer.h"
#include "device/simulation.h"
#include "io/temporary_file.h"

namespace sllm {
namespace {

using testing::error_of;
using testing::get;
using testing::put;
using testing::random_bytes;
using testing::run_peer;

constexpr std::uint64_t kBytes = 3 * kMiB + 5;

std::string hexadecimal(const IpcHandle& handle) {
  std::string text;
  for (const std::byte byte : handle) {
    constexpr std::string_view kDigits = "0123456789abcdef";
    text += kDigits[std::to_integer<unsigned>(byte) >> 4];
    text += kDigits[std::to_integer<unsigned>(byte) & 15];
  }
  return text;
}

void expect_exchange(Device& device, const std::string& device_name_there) {
  const auto memory = device.allocate(kBytes, AllocationKind::kShareable);
  put(device, memory->address(), random_bytes(kBytes, 7));
  const UniqueFd fd = memory->export_fd();
  const auto peer = run_peer(
      {CUDA_SIM_LIBRARY, device_name_there, "exchange-by-descriptor", std::to_string(kBytes), "7"}, fd.get());
  EXPECT_EQ(peer.status, 0) << peer.stderr_text;
  EXPECT_EQ(get(device, memory->address(), kBytes), random_bytes(kBytes, 8));
}

TEST(HostSharing, IsTheSameMemoryInAnotherProcess) {
  HostDevice device;
  expect_exchange(device, "cpu");
}

class SimulatedSharing : public testing::SimulatedTest {};

TEST_F(SimulatedSharing, IsTheSameMemoryInAnotherProcess) {
  const auto device = find_cuda_device(driver_, "cuda:0");
  expect_exchange(*device, "cuda:0");
}

TEST_F(SimulatedSharing, FindsTheDeviceByUuidWhereItHasAnotherNumber) {
  const auto device = find_cuda_device(driver_, "cuda:1");
  const testing::EnvironmentVariable visible("CUDA_VISIBLE_DEVICES", "1,0");
  const testing::EnvironmentVariable settings("SLLM_CUDA_SIM", "devices=2");
  expect_exchange(*device, "cuda:" + uuid_text(device->uuid()));
}

TEST_F(SimulatedSharing, IsRefusedOnAnotherDevice) {
  const auto device = find_cuda_device(driver_, "cuda:1");
  const auto memory = find_cuda_device(driver_, "cuda:0")->allocate(1, AllocationKind::kShareable);
  EXPECT_EQ(name_of(error_of([&] { device->import_fd(memory->export_fd(), 1); }).code()), "device");
}

TEST_F(SimulatedSharing, FallsBackToLegacyHandles) {
  const auto device = find_cuda_device(driver_, "cuda:0");
  const auto memory = device->allocate(kBytes, AllocationKind::kPlain);
  put(*device, memory->address(), random_bytes(kBytes, 7));
  const auto peer = run_peer({CUDA_SIM_LIBRARY, "cuda:0", "exchange-by-handle", std::to_string(kBytes), "7",
                              hexadecimal(memory->export_ipc())});
  EXPECT_EQ(peer.status, 0) << peer.stderr_text;
  EXPECT_EQ(get(*device, memory->address(), kBytes), random_bytes(kBytes, 8));
}

TEST_F(SimulatedSharing, IsRefusedWhereALegacyHandleHoldsLess) {
  const auto device = find_cuda_device(driver_, "cuda:0");
  const auto memory = device->allocate(kBytes, AllocationKind::kPlain);
  const auto peer = run_peer({CUDA_SIM_LIBRARY, "cuda:0", "exchange-by-handle", std::to_string(kBytes + 1),
                              "7", hexadecimal(memory->export_ipc())});
  EXPECT_EQ(peer.status, 3);
  EXPECT_NE(peer.stderr_text.find("invalid: cannot open"), std::string::npos) << peer.stderr_text;
  EXPECT_EQ(peer.stderr_text.find("left at exit"), std::string::npos) << peer.stderr_text;
}

TEST_F(SimulatedSharing, IsUnsupportedWhereDeviceOrDriverLackIt) {
  simulation_.configure("no_vmm=1,no_ipc=1");
  const auto device = find_cuda_device(driver_, "cuda:0");
  EXPECT_EQ(name_of(error_of([&] { device->allocate(1, AllocationKind::kShareable); }).code()),
            "unsupported");
  EXPECT_EQ(name_of(error_of([&] { device->import_fd(UniqueFd(), 1); }).code()), "unsupported");
  const auto memory = device->allocate(1, AllocationKind::kPlain);
  EXPECT_EQ(name_of(error_of([&] { memory->export_ipc(); }).code()), "unsupported");
}

}  // namespace
}  // namespace sllm
