// Memory with a descriptor, reserved addresses, and what puts one at the other. None of it is of a context.
#include <fcntl.h>

#include <algorithm>
#include <string>

#include "cuda_sim/call.h"

using cuda_sim::Address;
using cuda_sim::Backing;
using cuda_sim::Call;
using cuda_sim::kPageBytes;
using cuda_sim::Region;
using cuda_sim::RegionKind;
using cuda_sim::Reservation;
using cuda_sim::Result;
using cuda_sim::UniqueFd;
using sllm::cuda::AccessDescription;
using sllm::cuda::AllocationProperties;
using sllm::cuda::MemoryHandle;

namespace {

// As enter(), where the device can do it.
template <typename Body>
Result enter_supported(const char* function, Body&& body) {
  return cuda_sim::enter(function, [&](Call& call) {
    return call.simulator.settings.no_vmm != 0 ? Result::kNotSupported : body(call);
  });
}

// The device that a location means, or -1.
int device_at(Call& call, const sllm::cuda::Location& location) {
  const auto& visible = call.simulator.visible;
  const bool is_there = location.type == sllm::cuda::kLocationIsDevice && location.id >= 0 &&
                        static_cast<std::size_t>(location.id) < visible.size();
  return is_there ? visible[static_cast<std::size_t>(location.id)] : -1;
}

bool is_whole_pages(std::uint64_t bytes) { return bytes > 0 && bytes % kPageBytes == 0; }

// The reservation that holds all of the range.
Reservation* find_reservation(Call& call, Address address, std::uint64_t bytes) {
  for (auto& [start, reservation] : call.simulator.reservations) {
    if (address >= start && address + bytes <= start + reservation->bytes()) return reservation.get();
  }
  return nullptr;
}

bool is_placed(Call& call, Address address, std::uint64_t bytes) {
  const auto& regions = call.simulator.regions;
  return std::any_of(regions.begin(), regions.end(), [&](const auto& region) {
    return address < region.second.start + region.second.bytes && region.second.start < address + bytes;
  });
}

Region* find_placed(Call& call, Address address, std::uint64_t bytes) {
  const auto found = call.simulator.regions.find(address);
  const bool is_whole = found != call.simulator.regions.end() && found->second.bytes == bytes &&
                        found->second.kind == RegionKind::kPlaced;
  return is_whole ? &found->second : nullptr;
}

}  // namespace

Result cuMemGetAllocationGranularity(std::size_t* granularity, const AllocationProperties* properties, int) {
  return enter_supported("cuMemGetAllocationGranularity", [&](Call& call) {
    if (device_at(call, properties->location) < 0)
      return call.refuse(Result::kInvalidDevice, "no such device");
    *granularity = kPageBytes;
    return Result::kSuccess;
  });
}

Result cuMemCreate(MemoryHandle* handle, std::size_t bytes, const AllocationProperties* properties,
                   unsigned long long flags) {
  return enter_supported("cuMemCreate", [&](Call& call) {
    const int number = device_at(call, properties->location);
    if (number < 0) return call.refuse(Result::kInvalidDevice, "no such device");
    if (!is_whole_pages(bytes) || flags != 0 || properties->type != sllm::cuda::kAllocationIsPinned ||
        properties->handle_types != sllm::cuda::kHandleIsDescriptor) {
      return call.refuse(Result::kInvalidValue, "size, flags or properties");
    }
    cuda_sim::Device& device = call.simulator.devices[static_cast<std::size_t>(number)];
    if (device.allocated + bytes > call.simulator.settings.memory) return Result::kOutOfMemory;
    auto backing = Backing::make(number, bytes, device.allocated);
    if (backing == nullptr) return Result::kOutOfMemory;
    if (call.simulator.settings.populate != 0) backing->populate();
    *handle = ++call.simulator.last_number;
    call.simulator.handles[*handle] = std::move(backing);
    return Result::kSuccess;
  });
}

Result cuMemRelease(MemoryHandle handle) {
  return cuda_sim::enter_to_end("cuMemRelease", [&](Call& call) {
    const bool was_there = call.simulator.handles.erase(handle) > 0;
    return was_there ? Result::kSuccess
                     : call.refuse(Result::kInvalidValue, "no such handle, or it is released");
  });
}

Result cuMemExportToShareableHandle(void* shareable, MemoryHandle handle, int type, unsigned long long) {
  return enter_supported("cuMemExportToShareableHandle", [&](Call& call) {
    const auto found = call.simulator.handles.find(handle);
    if (found == call.simulator.handles.end() || type != sllm::cuda::kHandleIsDescriptor) {
      return call.refuse(Result::kInvalidValue, "no such handle, or another type");
    }
    const int fd = ::fcntl(found->second->fd(), F_DUPFD, 0);
    *static_cast<int*>(shareable) = fd;
    return fd >= 0 ? Result::kSuccess : Result::kUnknown;
  });
}

Result cuMemImportFromShareableHandle(MemoryHandle* handle, void* shareable, int type) {
  return enter_supported("cuMemImportFromShareableHandle", [&](Call& call) {
    if (type != sllm::cuda::kHandleIsDescriptor) return call.refuse(Result::kInvalidValue, "another type");
    const int fd = static_cast<int>(reinterpret_cast<std::intptr_t>(shareable));
    // The descriptor stays the caller's. One that was sent may be anything, so that is no violation.
    auto backing = Backing::adopt(UniqueFd(::fcntl(fd, F_DUPFD_CLOEXEC, 0)));
    if (backing == nullptr) return Result::kInvalidValue;
    *handle = ++call.simulator.last_number;
    call.simulator.handles[*handle] = std::move(backing);
    return Result::kSuccess;
  });
}

Result cuMemAddressReserve(Address* address, std::size_t bytes, std::size_t alignment, Address wanted,
                           unsigned long long flags) {
  return enter_supported("cuMemAddressReserve", [&](Call& call) {
    if (!is_whole_pages(bytes) || alignment != 0 || wanted != 0 || flags != 0) {
      return call.refuse(Result::kInvalidValue, "size, alignment, wish or flags");
    }
    auto reservation = Reservation::make(bytes, kPageBytes);
    if (reservation == nullptr) return Result::kOutOfMemory;
    *address = reservation->start();
    call.simulator.reservations[*address] = std::move(reservation);
    return Result::kSuccess;
  });
}

Result cuMemAddressFree(Address address, std::size_t bytes) {
  return cuda_sim::enter_to_end("cuMemAddressFree", [&](Call& call) {
    auto& reservations = call.simulator.reservations;
    const auto found = reservations.find(address);
    if (found == reservations.end() || found->second->bytes() != bytes) {
      return call.refuse(Result::kInvalidValue, "no such reservation");
    }
    if (is_placed(call, address, bytes))
      return call.refuse(Result::kInvalidValue, "memory is still placed there");
    reservations.erase(found);
    return Result::kSuccess;
  });
}

Result cuMemMap(Address address, std::size_t bytes, std::size_t offset, MemoryHandle handle,
                unsigned long long flags) {
  return enter_supported("cuMemMap", [&](Call& call) {
    const auto found = call.simulator.handles.find(handle);
    if (found == call.simulator.handles.end()) return call.refuse(Result::kInvalidValue, "no such handle");
    if (!is_whole_pages(bytes) || offset != 0 || flags != 0 || is_placed(call, address, bytes) ||
        find_reservation(call, address, bytes) == nullptr) {
      return call.refuse(Result::kInvalidValue, "size, offset, flags, or addresses that aren't free");
    }
    // How large imported memory is, another process said.
    if (bytes > found->second->bytes().size()) return Result::kInvalidValue;
    call.simulator.regions[address] =
        Region{address, bytes, RegionKind::kPlaced, found->second, nullptr, false};
    return Result::kSuccess;
  });
}

Result cuMemSetAccess(Address address, std::size_t bytes, const AccessDescription* access,
                      std::size_t count) {
  return enter_supported("cuMemSetAccess", [&](Call& call) {
    Region* region = find_placed(call, address, bytes);
    if (region == nullptr || count != 1 || access->flags != sllm::cuda::kAccessReadWrite) {
      return call.refuse(Result::kInvalidValue, "no such placement, or other access than to read and write");
    }
    // The devices here are no peers of each other.
    if (device_at(call, access->location) != region->backing->device()) return Result::kInvalidDevice;
    region->is_accessible = true;
    return Result::kSuccess;
  });
}

Result cuMemUnmap(Address address, std::size_t bytes) {
  return cuda_sim::enter_to_end("cuMemUnmap", [&](Call& call) {
    Region* region = find_placed(call, address, bytes);
    if (region == nullptr) return call.refuse(Result::kInvalidValue, "no such placement");
    call.simulator.settle(region->backing->bytes(), call.function);
    call.simulator.regions.erase(address);
    return Result::kSuccess;
  });
}
