// Another process for the tests of devices: device_peer LIBRARY DEVICE ROLE ARGUMENTS...
// LIBRARY is a driver, or "environment" for the one that $SLLM_CUDA_DRIVER names.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/size.h"
#include "device/cuda_device.h"
#include "device/device_bytes.h"
#include "device/peer_descriptor.h"
#include "io/temporary_file.h"
#include "memory/host_buffer.h"

namespace sllm {
namespace {

using Arguments = std::vector<std::string>;
using testing::random_bytes;

// Finds random_bytes(bytes, seed) in memory that is not its own, and leaves those of the next seed there.
int exchange(Device& device, const DeviceMemory& memory, std::uint64_t seed) {
  const auto expected = random_bytes(memory.bytes(), seed);
  if (testing::get(device, memory.address(), memory.bytes()) != expected) return 1;
  testing::put(device, memory.address(), random_bytes(memory.bytes(), seed + 1));
  return 0;
}

// BYTES SEED
int exchange_by_descriptor(Device& device, const Arguments& arguments) {
  const auto memory = device.import_fd(UniqueFd(testing::kPeerDescriptor), std::stoull(arguments[0]));
  return exchange(device, *memory, std::stoull(arguments[1]));
}

IpcHandle parse_handle(const std::string& hexadecimal) {
  IpcHandle handle{};
  for (std::size_t i = 0; i < handle.size(); ++i) {
    handle[i] = static_cast<std::byte>(std::stoul(hexadecimal.substr(2 * i, 2), nullptr, 16));
  }
  return handle;
}

// BYTES SEED HANDLE
int exchange_by_handle(Device& device, const Arguments& arguments) {
  const auto memory = device.import_ipc(parse_handle(arguments[2]), std::stoull(arguments[0]));
  return exchange(device, *memory, std::stoull(arguments[1]));
}

// Fills one staging buffer again and again, and waits for its copy before that, or does not.
int reuse_staging(Device& device, bool is_waiting) {
  constexpr std::uint64_t kRounds = 4;
  const auto staging = HostBuffer::allocate(kMiB);
  const auto registration = device.register_host(staging->bytes());
  const auto memory = device.allocate(kRounds * kMiB, AllocationKind::kPlain);
  const auto bytes = random_bytes(kRounds * kMiB);
  const auto stream = device.make_stream();
  for (std::uint64_t round = 0; round < kRounds; ++round) {
    std::copy_n(bytes.begin() + static_cast<long>(round * kMiB), kMiB, staging->bytes().begin());
    stream->copy_in(memory->address() + round * kMiB, staging->bytes());
    if (is_waiting) stream->record()->wait();
  }
  stream->finish();
  return testing::get(device, memory->address(), bytes.size()) == bytes ? 0 : 1;
}

// Copies in on one stream and out again on another, which waits for the first one, or does not.
int cross_streams(Device& device, bool is_waiting) {
  const auto in = HostBuffer::allocate(kMiB);
  const auto out = HostBuffer::allocate(kMiB);
  const auto in_registration = device.register_host(in->bytes());
  const auto out_registration = device.register_host(out->bytes());
  const auto bytes = random_bytes(kMiB);
  std::copy(bytes.begin(), bytes.end(), in->bytes().begin());
  const auto memory = device.allocate(kMiB, AllocationKind::kPlain);
  const auto first = device.make_stream();
  const auto second = device.make_stream();
  first->copy_in(memory->address(), in->bytes());
  if (is_waiting) second->wait_for(*first->record());
  second->copy_out(out->bytes(), memory->address());
  second->finish();
  first->finish();
  return std::equal(bytes.begin(), bytes.end(), out->bytes().begin()) ? 0 : 1;
}

// Ends with everything that a process can forget.
int forget(Device& device) {
  const auto staging = new std::shared_ptr<HostBuffer>(HostBuffer::allocate(kMiB));
  device.register_host((*staging)->bytes()).release();
  device.allocate(kMiB, AllocationKind::kPlain).release();
  device.allocate(kMiB, AllocationKind::kShareable).release();
  const auto stream = device.make_stream().release();
  stream->record().release();
  std::fflush(nullptr);
  std::exit(0);
}

int touch(Device& device) {
  const auto memory = device.allocate(kMiB, AllocationKind::kPlain);
  *reinterpret_cast<volatile char*>(memory->address()) = 1;
  return 0;
}

int run(const Arguments& arguments) {
  const bool is_found_by_name = arguments[0] == "environment" || arguments[1] == "cpu";
  const std::shared_ptr<Device> device = is_found_by_name
                                             ? find_device(arguments[1])
                                             : find_cuda_device(CudaDriver::load(arguments[0]), arguments[1]);
  const std::string& role = arguments[2];
  const Arguments rest(arguments.begin() + 3, arguments.end());
  if (role == "exchange-by-descriptor") return exchange_by_descriptor(*device, rest);
  if (role == "exchange-by-handle") return exchange_by_handle(*device, rest);
  if (role == "reuse-after-waiting") return reuse_staging(*device, true);
  if (role == "reuse-at-once") return reuse_staging(*device, false);
  if (role == "cross-after-waiting") return cross_streams(*device, true);
  if (role == "cross-at-once") return cross_streams(*device, false);
  if (role == "nothing") return 0;
  if (role == "forget") return forget(*device);
  if (role == "touch") return touch(*device);
  return 2;
}

}  // namespace
}  // namespace sllm

int main(int count, char** arguments) {
  try {
    return sllm::run({arguments + 1, arguments + count});
  } catch (const sllm::Error& error) {
    std::fprintf(stderr, "%s: %s\n", std::string(sllm::name_of(error.code())).c_str(), error.what());
    return 3;
  }
}
