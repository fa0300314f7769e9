#pragma once

#include <memory>

#include "device/cuda_context.h"
#include "device/device.h"

namespace sllm {

// Sleeps in the driver while it waits, instead of spinning.
class CudaEvent final : public Event {
 public:
  // Recorded in the stream, which is of the context.
  CudaEvent(std::shared_ptr<const CudaContext> context, cuda::Stream stream);
  ~CudaEvent() override;

  bool is_done() const override;
  void wait() const override;

  const CudaDriver& driver() const { return context_->driver(); }
  cuda::Event get() const { return event_; }

 private:
  std::shared_ptr<const CudaContext> context_;
  cuda::Event event_ = nullptr;
};

class CudaStream final : public Stream {
 public:
  explicit CudaStream(std::shared_ptr<const CudaContext> context);
  ~CudaStream() override;

  void copy_in(DeviceAddress to, std::span<const std::byte> from) override;
  void copy_in_rows(const RowCopy& copy) override;
  void copy_out(std::span<std::byte> to, DeviceAddress from) override;
  void copy_within(DeviceAddress to, DeviceAddress from, std::uint64_t bytes) override;
  std::unique_ptr<Event> record() override;
  void wait_for(const Event& event) override;
  void finish() override;

 private:
  std::shared_ptr<const CudaContext> context_;
  cuda::Stream stream_ = nullptr;
};

}  // namespace sllm
