#include "device/cuda_stream.h"

#include "device/row_copy.h"

namespace sllm {
namespace {

cuda::Event make_event(const CudaContext& context) {
  cuda::Event event = nullptr;
  context.call(
      [&](const cuda::Functions& driver) {
        return driver.cuEventCreate(&event, cuda::kEventBlockingSync | cuda::kEventDisableTiming);
      },
      [&] { return "cannot make an event on " + context.name(); });
  return event;
}

cuda::Copy2d to_driver(const RowCopy& copy) {
  cuda::Copy2d driver_copy{};
  driver_copy.from_type = cuda::kMemoryIsHost;
  driver_copy.from_host = copy.from;
  driver_copy.from_pitch = copy.from_pitch;
  driver_copy.to_type = cuda::kMemoryIsDevice;
  driver_copy.to_device = copy.to;
  driver_copy.to_pitch = copy.to_pitch;
  driver_copy.row_bytes = copy.row_bytes;
  driver_copy.rows = copy.rows;
  return driver_copy;
}

}  // namespace

CudaEvent::CudaEvent(std::shared_ptr<const CudaContext> context, cuda::Stream stream)
    : context_(std::move(context)), event_(make_event(*context_)) {
  try {
    context_->call([&](const cuda::Functions& driver) { return driver.cuEventRecord(event_, stream); },
                   [&] { return "cannot record an event on " + context_->name(); });
  } catch (...) {
    context_->release([this](const cuda::Functions& driver) { driver.cuEventDestroy_v2(event_); });
    throw;
  }
}

CudaEvent::~CudaEvent() {
  context_->release([this](const cuda::Functions& driver) { driver.cuEventDestroy_v2(event_); });
}

bool CudaEvent::is_done() const {
  bool is_done = true;
  context_->call(
      [&](const cuda::Functions& driver) {
        const cuda::Result result = driver.cuEventQuery(event_);
        is_done = result != cuda::Result::kNotReady;
        return is_done ? result : cuda::Result::kSuccess;
      },
      [&] { return "copies on " + context_->name() + " failed"; });
  return is_done;
}

void CudaEvent::wait() const {
  context_->call([&](const cuda::Functions& driver) { return driver.cuEventSynchronize(event_); },
                 [&] { return "copies on " + context_->name() + " failed"; });
}

CudaStream::CudaStream(std::shared_ptr<const CudaContext> context) : context_(std::move(context)) {
  // Not in step with the legacy default stream, in which others may have work.
  context_->call(
      [&](const cuda::Functions& driver) {
        return driver.cuStreamCreate(&stream_, cuda::kStreamNonBlocking);
      },
      [&] { return "cannot make a stream on " + context_->name(); });
}

CudaStream::~CudaStream() {
  // Destroying a stream leaves its copies running, on memory that goes next.
  context_->release([this](const cuda::Functions& driver) {
    driver.cuStreamSynchronize(stream_);
    driver.cuStreamDestroy_v2(stream_);
  });
}

void CudaStream::copy_in(DeviceAddress to, std::span<const std::byte> from) {
  if (from.empty()) return;
  context_->call(
      [&](const cuda::Functions& driver) {
        return driver.cuMemcpyHtoDAsync_v2(to, from.data(), from.size(), stream_);
      },
      [&] { return "cannot copy " + std::to_string(from.size()) + " bytes to " + context_->name(); });
}

void CudaStream::copy_in_rows(const RowCopy& copy) {
  validate(copy);
  if (copy.rows == 0 || copy.row_bytes == 0) return;
  const cuda::Copy2d driver_copy = to_driver(copy);
  context_->call(
      [&](const cuda::Functions& driver) { return driver.cuMemcpy2DAsync_v2(&driver_copy, stream_); },
      [&] {
        return "cannot copy " + std::to_string(copy.rows) + " rows of " + std::to_string(copy.row_bytes) +
               " bytes to " + context_->name();
      });
}

void CudaStream::copy_out(std::span<std::byte> to, DeviceAddress from) {
  if (to.empty()) return;
  context_->call(
      [&](const cuda::Functions& driver) {
        return driver.cuMemcpyDtoHAsync_v2(to.data(), from, to.size(), stream_);
      },
      [&] { return "cannot copy " + std::to_string(to.size()) + " bytes from " + context_->name(); });
}

void CudaStream::copy_within(DeviceAddress to, DeviceAddress from, std::uint64_t bytes) {
  if (bytes == 0) return;
  context_->call(
      [&](const cuda::Functions& driver) { return driver.cuMemcpyDtoDAsync_v2(to, from, bytes, stream_); },
      [&] { return "cannot copy " + std::to_string(bytes) + " bytes within " + context_->name(); });
}

std::unique_ptr<Event> CudaStream::record() { return std::make_unique<CudaEvent>(context_, stream_); }

void CudaStream::wait_for(const Event& event) {
  const auto* ours = dynamic_cast<const CudaEvent*>(&event);
  if (ours == nullptr || &ours->driver() != &context_->driver()) return event.wait();
  context_->call(
      [&](const cuda::Functions& driver) { return driver.cuStreamWaitEvent(stream_, ours->get(), 0); },
      [&] { return "cannot let a stream of " + context_->name() + " wait for an event"; });
}

void CudaStream::finish() {
  context_->call([&](const cuda::Functions& driver) { return driver.cuStreamSynchronize(stream_); },
                 [&] { return "copies on " + context_->name() + " failed"; });
}

}  // namespace sllm
