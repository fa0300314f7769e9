#include "device/cuda_shareable_memory.h"

#include <fcntl.h>

#include <algorithm>

#include "base/size.h"
#include "device/cuda_memory.h"

namespace sllm {
namespace {

using Context = std::shared_ptr<const CudaContext>;

// Physical memory, without an address.
class Physical {
 public:
  Physical(Context context, cuda::MemoryHandle handle) : context_(std::move(context)), handle_(handle) {}
  Physical(const Physical&) = delete;
  Physical& operator=(const Physical&) = delete;
  ~Physical() {
    if (context_->driver().is_usable_here()) context_->driver().functions().cuMemRelease(handle_);
  }

  const CudaContext& context() const { return *context_; }
  cuda::MemoryHandle handle() const { return handle_; }

 private:
  Context context_;
  cuda::MemoryHandle handle_;
};

// The functions of virtual memory management, out of any context.
template <typename Function>
void call(const CudaContext& context, const std::string& failed, Function&& function) {
  context.driver().check_process();
  const cuda::Result result = function(context.driver().functions());
  if (result != cuda::Result::kSuccess) throw context.driver().error(result, failed);
}

// A range of addresses with nothing behind them.
class AddressRange {
 public:
  AddressRange(const CudaContext& context, std::uint64_t bytes) : context_(context), bytes_(bytes) {
    call(context, "cannot reserve " + std::to_string(bytes) + " bytes of addresses on " + context.name(),
         [&](const cuda::Functions& driver) { return driver.cuMemAddressReserve(&start_, bytes, 0, 0, 0); });
  }
  AddressRange(const AddressRange&) = delete;
  AddressRange& operator=(const AddressRange&) = delete;
  ~AddressRange() {
    if (context_.driver().is_usable_here()) {
      context_.driver().functions().cuMemAddressFree(start_, bytes_);
    }
  }

  cuda::Address start() const { return start_; }
  std::uint64_t bytes() const { return bytes_; }

 private:
  const CudaContext& context_;
  std::uint64_t bytes_;
  cuda::Address start_ = 0;
};

// Physical memory at a range of addresses.
class Placement {
 public:
  Placement(const Physical& physical, const AddressRange& range) : physical_(physical), range_(range) {
    call(physical.context(), failed("map"), [&](const cuda::Functions& driver) {
      return driver.cuMemMap(range.start(), range.bytes(), 0, physical.handle(), 0);
    });
  }
  Placement(const Placement&) = delete;
  Placement& operator=(const Placement&) = delete;
  ~Placement() {
    const CudaDriver& driver = physical_.context().driver();
    if (driver.is_usable_here()) driver.functions().cuMemUnmap(range_.start(), range_.bytes());
  }

  void allow_access() {
    const cuda::AccessDescription access{
        .location = {.type = cuda::kLocationIsDevice, .id = physical_.context().device()},
        .flags = cuda::kAccessReadWrite};
    call(physical_.context(), failed("access"), [&](const cuda::Functions& driver) {
      return driver.cuMemSetAccess(range_.start(), range_.bytes(), &access, 1);
    });
  }

 private:
  std::string failed(const char* verb) const {
    return std::string("cannot ") + verb + " " + std::to_string(range_.bytes()) + " bytes on " +
           physical_.context().name();
  }

  const Physical& physical_;
  const AddressRange& range_;
};

class ShareableMemory final : public DeviceMemory {
 public:
  struct Parts {
    std::unique_ptr<Physical> physical;
    std::unique_ptr<AddressRange> range;
    std::unique_ptr<Placement> placement;  // destroyed first
  };

  ShareableMemory(Parts parts, std::uint64_t bytes)
      : DeviceMemory(parts.range->start(), bytes), parts_(std::move(parts)) {}

  UniqueFd export_fd() const override {
    int fd = -1;
    call(parts_.physical->context(), describe("as a descriptor"), [&](const cuda::Functions& driver) {
      return driver.cuMemExportToShareableHandle(&fd, parts_.physical->handle(), cuda::kHandleIsDescriptor,
                                                 0);
    });
    UniqueFd exported(fd);
    ::fcntl(fd, F_SETFD, FD_CLOEXEC);
    return exported;
  }

  IpcHandle export_ipc() const override {
    throw Error(ErrorCode::kUnsupported, describe("by a legacy handle") + ": it has a descriptor");
  }

 private:
  std::string describe(const char* how) const {
    return "cannot export " + std::to_string(bytes()) + " bytes on " + parts_.physical->context().name() +
           " " + how;
  }

  Parts parts_;
};

cuda::AllocationProperties properties_on(const CudaContext& context) {
  cuda::AllocationProperties properties{};
  properties.type = cuda::kAllocationIsPinned;
  properties.handle_types = cuda::kHandleIsDescriptor;
  properties.location = {.type = cuda::kLocationIsDevice, .id = context.device()};
  return properties;
}

bool has(const CudaContext& context, int attribute) {
  int value = 0;
  call(context, "cannot get attribute " + std::to_string(attribute) + " of " + context.name(),
       [&](const cuda::Functions& driver) {
         return driver.cuDeviceGetAttribute(&value, attribute, context.device());
       });
  return value != 0;
}

void check_supported(const CudaContext& context) {
  if (has(context, cuda::kVirtualMemorySupported) && has(context, cuda::kDescriptorHandlesSupported)) return;
  throw Error(ErrorCode::kUnsupported, "cannot share memory of " + context.name() +
                                           " as a descriptor: the device or its driver cannot");
}

// What memory of so many bytes takes: whole pages of the device.
std::uint64_t mapped_bytes(const CudaContext& context, std::uint64_t bytes) {
  const cuda::AllocationProperties properties = properties_on(context);
  std::size_t granularity = 0;
  call(context, "cannot get the page size of " + context.name(), [&](const cuda::Functions& driver) {
    return driver.cuMemGetAllocationGranularity(&granularity, &properties, cuda::kGranularityMinimum);
  });
  if (granularity == 0 || (granularity & (granularity - 1)) != 0) {
    throw Error(ErrorCode::kDevice,
                "pages of " + std::to_string(granularity) + " bytes on " + context.name() + " make no sense");
  }
  return align_up(std::max<std::uint64_t>(bytes, 1), granularity);
}

std::unique_ptr<DeviceMemory> place(std::unique_ptr<Physical> physical, std::uint64_t mapped,
                                    std::uint64_t bytes) {
  ShareableMemory::Parts parts;
  parts.physical = std::move(physical);
  parts.range = std::make_unique<AddressRange>(parts.physical->context(), mapped);
  parts.placement = std::make_unique<Placement>(*parts.physical, *parts.range);
  parts.placement->allow_access();
  return std::make_unique<ShareableMemory>(std::move(parts), bytes);
}

}  // namespace

std::unique_ptr<DeviceMemory> allocate_shareable(Context context, std::uint64_t bytes) {
  check_supported(*context);
  const std::uint64_t mapped = mapped_bytes(*context, bytes);
  const cuda::AllocationProperties properties = properties_on(*context);
  cuda::MemoryHandle handle = 0;
  context->call(
      [&](const cuda::Functions& driver) { return driver.cuMemCreate(&handle, mapped, &properties, 0); },
      [&] { return describe_allocation(*context, bytes); });
  return place(std::make_unique<Physical>(std::move(context), handle), mapped, bytes);
}

std::unique_ptr<DeviceMemory> import_shareable(Context context, UniqueFd fd, std::uint64_t bytes) {
  check_supported(*context);
  const std::uint64_t mapped = mapped_bytes(*context, bytes);
  cuda::MemoryHandle handle = 0;
  call(*context, "cannot import " + std::to_string(bytes) + " bytes of another process on " + context->name(),
       [&](const cuda::Functions& driver) {
         // The driver takes the descriptor's number in the place of a pointer.
         void* shareable = reinterpret_cast<void*>(static_cast<std::intptr_t>(fd.get()));
         return driver.cuMemImportFromShareableHandle(&handle, shareable, cuda::kHandleIsDescriptor);
       });
  return place(std::make_unique<Physical>(std::move(context), handle), mapped, bytes);
}

}  // namespace sllm
