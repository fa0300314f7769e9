#include "device/cuda_memory.h"

#include <algorithm>
#include <cstring>

namespace sllm {
namespace {

// From cuMemAlloc.
class PlainMemory final : public DeviceMemory {
 public:
  PlainMemory(std::shared_ptr<const CudaContext> context, DeviceAddress address, std::uint64_t bytes)
      : DeviceMemory(address, bytes), context_(std::move(context)) {}
  ~PlainMemory() override {
    context_->release([this](const cuda::Functions& driver) { driver.cuMemFree_v2(address()); });
  }

  UniqueFd export_fd() const override {
    throw Error(ErrorCode::kUnsupported, "cannot export " + std::to_string(bytes()) + " bytes on " +
                                             context_->name() +
                                             " as a descriptor: they were not allocated shareable");
  }

  IpcHandle export_ipc() const override {
    cuda::IpcMemoryHandle handle{};
    context_->call(
        [&](const cuda::Functions& driver) { return driver.cuIpcGetMemHandle(&handle, address()); },
        [&] { return "cannot export " + std::to_string(bytes()) + " bytes on " + context_->name(); });
    IpcHandle exported{};
    static_assert(sizeof(exported) == sizeof(handle));
    std::memcpy(exported.data(), &handle, sizeof(handle));
    return exported;
  }

 private:
  std::shared_ptr<const CudaContext> context_;
};

// Another process's memory, opened by its legacy handle.
class OpenedMemory final : public DeviceMemory {
 public:
  OpenedMemory(std::shared_ptr<const CudaContext> context, DeviceAddress address, std::uint64_t bytes)
      : DeviceMemory(address, bytes), context_(std::move(context)) {}
  ~OpenedMemory() override {
    context_->release([this](const cuda::Functions& driver) { driver.cuIpcCloseMemHandle(address()); });
  }

  UniqueFd export_fd() const override { refuse(); }
  IpcHandle export_ipc() const override { refuse(); }

 private:
  [[noreturn]] void refuse() const {
    throw Error(ErrorCode::kUnsupported,
                "cannot export memory on " + context_->name() + " that another process owns");
  }

  std::shared_ptr<const CudaContext> context_;
};

void check_holds(const CudaContext& context, const DeviceMemory& memory) {
  cuda::Address start = 0;
  std::size_t held = 0;
  context.call(
      [&](const cuda::Functions& driver) {
        return driver.cuMemGetAddressRange_v2(&start, &held, memory.address());
      },
      [&] { return "cannot measure memory of another process on " + context.name(); });
  if (start + held - memory.address() >= memory.bytes()) return;
  throw Error(ErrorCode::kInvalid, "cannot open " + std::to_string(memory.bytes()) +
                                       " bytes of another process on " + context.name() + ": it holds " +
                                       std::to_string(held));
}

}  // namespace

std::string describe_allocation(const CudaContext& context, std::uint64_t bytes) {
  std::string text = "cannot allocate " + std::to_string(bytes) + " bytes on " + context.name();
  std::size_t free_bytes = 0;
  std::size_t total_bytes = 0;
  if (context.driver().functions().cuMemGetInfo_v2(&free_bytes, &total_bytes) == cuda::Result::kSuccess) {
    text += " with " + std::to_string(free_bytes) + " of " + std::to_string(total_bytes) + " free";
  }
  return text;
}

std::unique_ptr<DeviceMemory> allocate_plain(std::shared_ptr<const CudaContext> context,
                                             std::uint64_t bytes) {
  cuda::Address address = 0;
  context->call(
      // The driver refuses to allocate nothing.
      [&](const cuda::Functions& driver) {
        return driver.cuMemAlloc_v2(&address, std::max<std::uint64_t>(bytes, 1));
      },
      [&] { return describe_allocation(*context, bytes); });
  return std::make_unique<PlainMemory>(std::move(context), address, bytes);
}

std::unique_ptr<DeviceMemory> open_ipc(std::shared_ptr<const CudaContext> context, const IpcHandle& handle,
                                       std::uint64_t bytes) {
  cuda::IpcMemoryHandle opened{};
  std::memcpy(&opened, handle.data(), sizeof(opened));
  cuda::Address address = 0;
  context->call(
      [&](const cuda::Functions& driver) {
        return driver.cuIpcOpenMemHandle_v2(&address, opened, cuda::kIpcLazyPeerAccess);
      },
      [&] {
        return "cannot open " + std::to_string(bytes) + " bytes of another process on " + context->name();
      });
  auto memory = std::make_unique<OpenedMemory>(context, address, bytes);
  check_holds(*context, *memory);
  return memory;
}

}  // namespace sllm
