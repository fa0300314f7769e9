// Device memory that another process may have by a legacy handle, and registered host memory.
#include <fcntl.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "cuda_sim/call.h"

using cuda_sim::Address;
using cuda_sim::Backing;
using cuda_sim::ContextCall;
using cuda_sim::Region;
using cuda_sim::RegionKind;
using cuda_sim::Registration;
using cuda_sim::Reservation;
using cuda_sim::Result;
using cuda_sim::UniqueFd;

namespace {

// What a legacy handle holds here: the descriptor of a process.
struct HandleContents {
  char magic[8];
  pid_t process;
  int fd;
  int device;
};
constexpr char kMagic[8] = {'c', 'u', 'd', 'a', '_', 's', 'i', 'm'};
static_assert(sizeof(HandleContents) <= sizeof(sllm::cuda::IpcMemoryHandle));

std::uint64_t free_bytes(ContextCall& call) {
  const std::uint64_t memory = call.simulator.settings.memory;
  return memory - std::min(memory, call.device().allocated);
}

Result add_region(ContextCall& call, std::shared_ptr<Backing> backing, RegionKind kind, Address* address) {
  constexpr std::uint64_t kAlignment = 4096;
  const std::uint64_t bytes = backing->bytes().size();
  auto reservation = Reservation::make(bytes, kAlignment);
  if (reservation == nullptr) return Result::kOutOfMemory;
  *address = reservation->start();
  call.simulator.regions[*address] =
      Region{*address, bytes, kind, std::move(backing), std::move(reservation)};
  return Result::kSuccess;
}

Result remove_region(ContextCall& call, Address address, RegionKind kind) {
  auto& regions = call.simulator.regions;
  const auto found = regions.find(address);
  if (found == regions.end() || found->second.kind != kind) {
    return call.refuse(Result::kInvalidValue, "no such memory, or it is freed already");
  }
  if (found->second.backing->device() != call.context.device) {
    return call.refuse(Result::kInvalidContext, "memory of another device");
  }
  call.simulator.settle(found->second.backing->bytes(), call.function);
  regions.erase(found);
  return Result::kSuccess;
}

bool overlaps(const std::byte* start, std::size_t bytes, const std::byte* other, std::size_t other_bytes) {
  return start < other + other_bytes && other < start + bytes;
}

Result open_handle(ContextCall& call, const HandleContents& contents, Address* address) {
  if (std::memcmp(contents.magic, kMagic, sizeof(kMagic)) != 0) {
    return call.refuse(Result::kInvalidValue, "no handle of this driver");
  }
  if (contents.process == ::getpid()) {
    return call.refuse(Result::kInvalidContext, "a handle of this very process");
  }
  if (contents.device != call.context.device) return Result::kInvalidDevice;
  const std::string path = "/proc/" + std::to_string(contents.process) + "/fd/" + std::to_string(contents.fd);
  auto backing = Backing::adopt(UniqueFd(::open(path.c_str(), O_RDWR | O_CLOEXEC)));
  if (backing == nullptr) return Result::kInvalidValue;
  return add_region(call, std::move(backing), RegionKind::kOpened, address);
}

}  // namespace

Result cuMemGetInfo_v2(std::size_t* free, std::size_t* total) {
  return cuda_sim::enter_context("cuMemGetInfo_v2", [&](ContextCall& call) {
    *free = free_bytes(call);
    *total = call.simulator.settings.memory;
    return Result::kSuccess;
  });
}

Result cuMemAlloc_v2(Address* address, std::size_t bytes) {
  return cuda_sim::enter_context("cuMemAlloc_v2", [&](ContextCall& call) {
    if (bytes == 0) return call.refuse(Result::kInvalidValue, "no bytes");
    if (bytes > free_bytes(call)) return Result::kOutOfMemory;
    auto backing = Backing::make(call.context.device, bytes, call.device().allocated);
    if (backing == nullptr) return Result::kOutOfMemory;
    if (call.simulator.settings.populate != 0) backing->populate();
    return add_region(call, std::move(backing), RegionKind::kPlain, address);
  });
}

Result cuMemFree_v2(Address address) {
  return cuda_sim::enter_context_to_end(
      "cuMemFree_v2", [&](ContextCall& call) { return remove_region(call, address, RegionKind::kPlain); });
}

Result cuMemGetAddressRange_v2(Address* start, std::size_t* bytes, Address address) {
  return cuda_sim::enter_context("cuMemGetAddressRange_v2", [&](ContextCall& call) {
    const Region* region = find(call.simulator.regions, address, 1);
    if (region == nullptr) return call.refuse(Result::kInvalidValue, "no such memory");
    *start = region->start;
    *bytes = region->bytes;
    return Result::kSuccess;
  });
}

Result cuIpcGetMemHandle(sllm::cuda::IpcMemoryHandle* handle, Address address) {
  return cuda_sim::enter_context("cuIpcGetMemHandle", [&](ContextCall& call) {
    if (call.simulator.settings.no_ipc != 0) return Result::kNotSupported;
    const Region* region = find(call.simulator.regions, address, 1);
    if (region == nullptr || region->kind != RegionKind::kPlain) {
      return call.refuse(Result::kInvalidValue, "not what cuMemAlloc gave");
    }
    HandleContents contents{
        .magic = {}, .process = ::getpid(), .fd = region->backing->fd(), .device = call.context.device};
    std::memcpy(contents.magic, kMagic, sizeof(kMagic));
    *handle = {};
    std::memcpy(handle, &contents, sizeof(contents));
    return Result::kSuccess;
  });
}

Result cuIpcOpenMemHandle_v2(Address* address, sllm::cuda::IpcMemoryHandle handle, unsigned flags) {
  return cuda_sim::enter_context("cuIpcOpenMemHandle_v2", [&](ContextCall& call) {
    if (call.simulator.settings.no_ipc != 0) return Result::kNotSupported;
    if (flags != sllm::cuda::kIpcLazyPeerAccess) return call.refuse(Result::kInvalidValue, "flags");
    HandleContents contents{};
    std::memcpy(&contents, &handle, sizeof(contents));
    return open_handle(call, contents, address);
  });
}

Result cuIpcCloseMemHandle(Address address) {
  return cuda_sim::enter_context_to_end("cuIpcCloseMemHandle", [&](ContextCall& call) {
    return remove_region(call, address, RegionKind::kOpened);
  });
}

Result cuMemHostRegister_v2(void* memory, std::size_t bytes, unsigned flags) {
  return cuda_sim::enter_context("cuMemHostRegister_v2", [&](ContextCall& call) {
    const auto* start = static_cast<const std::byte*>(memory);
    auto& registrations = call.simulator.registrations;
    if (start == nullptr || bytes == 0) return call.refuse(Result::kInvalidValue, "no memory");
    for (const auto& [other, registration] : registrations) {
      if (overlaps(start, bytes, other, registration.bytes)) return Result::kHostMemoryAlreadyRegistered;
    }
    const std::uint64_t limit = call.simulator.settings.register_limit;
    const std::uint64_t registered = call.simulator.registered_bytes() + bytes;
    if (limit != 0 && registered > limit) return Result::kOutOfMemory;
    const bool is_portable = (flags & sllm::cuda::kHostRegisterPortable) != 0;
    registrations[start] = Registration{bytes, &call.context, is_portable};
    auto& most = call.simulator.counts.most_registered;
    most = std::max(most, registered);
    return Result::kSuccess;
  });
}

Result cuMemHostUnregister(void* memory) {
  return cuda_sim::enter_context_to_end("cuMemHostUnregister", [&](ContextCall& call) {
    auto& registrations = call.simulator.registrations;
    const auto found = registrations.find(static_cast<const std::byte*>(memory));
    if (found == registrations.end()) {
      return call.refuse(Result::kHostMemoryNotRegistered, "memory that is not registered");
    }
    call.simulator.settle({found->first, found->second.bytes}, call.function);
    registrations.erase(found);
    return Result::kSuccess;
  });
}
