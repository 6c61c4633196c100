#include "devices/net/pcap.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <mutex>
#include <utility>
#include <vector>

#include "devices/net/frame_pieces.h"
#include "devices/net/net_filter.h"
#include "vmm/core/fd.h"

namespace minivmm {

namespace {

constexpr uint32_t kSnapLength = 65535;

// The classic format (draft-ietf-opsawg-pcap): its magic tells the byte order and that times are in
// nanoseconds.
struct FileHeader {
  uint32_t magic = 0xa1b23c4d;
  uint16_t major = 2;
  uint16_t minor = 4;
  uint32_t reserved[2] = {};
  uint32_t snap_length = kSnapLength;
  uint32_t link_type = 1;  // LINKTYPE_ETHERNET
};
static_assert(sizeof(FileHeader) == 24);

struct RecordHeader {
  uint32_t seconds;
  uint32_t nanoseconds;
  uint32_t captured;
  uint32_t length;
};
static_assert(sizeof(RecordHeader) == 16);

class PcapFile {
 public:
  PcapFile(const std::string& path, Log& log)
      : path_(path), log_(log), fd_(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0600)) {
    const std::string what = fmt::format("write the capture '{}'", path);
    struct stat status{};
    if (!fd_ || ::fstat(fd_.get(), &status) != 0) throw_errno(what);
    if (!S_ISREG(status.st_mode)) throw HostError(EINVAL, fmt::format("cannot {}: it is no file", what));
    if (::flock(fd_.get(), LOCK_EX | LOCK_NB) != 0) throw_errno(what, "give each card a file of its own");
    const FileHeader header;
    if (::ftruncate(fd_.get(), 0) != 0 || ::pwrite(fd_.get(), &header, sizeof header, 0) != sizeof header) {
      throw_errno(what);
    }
  }

  // `pieces` hold the header and the frame, `size` bytes in all. Called on several threads.
  void write(std::span<const iovec> pieces, size_t size) {
    const size_t length = size - kNetHeaderSize;
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    RecordHeader record{.seconds = static_cast<uint32_t>(now.tv_sec),
                        .nanoseconds = static_cast<uint32_t>(now.tv_nsec),
                        .captured = static_cast<uint32_t>(std::min<size_t>(length, kSnapLength)),
                        .length = static_cast<uint32_t>(length)};
    const std::scoped_lock lock(mutex_);
    if (!fd_) return;
    parts_.assign(1, {&record, sizeof record});
    append(pieces, record.captured);
    const size_t total = sizeof record + record.captured;
    const ssize_t written = ::pwritev(fd_.get(), parts_.data(), static_cast<int>(parts_.size()), end_);
    if (written == static_cast<ssize_t>(total)) {
      end_ += written;
      return;
    }
    end_capture(written < 0 ? errno : ENOSPC);
  }

 private:
  void append(std::span<const iovec> pieces, size_t left) {
    size_t skip = kNetHeaderSize;
    for (const iovec& piece : pieces) {
      const size_t begin = std::min(skip, piece.iov_len);
      skip -= begin;
      const size_t n = std::min(piece.iov_len - begin, left);
      left -= n;
      if (n != 0) parts_.push_back({static_cast<std::byte*>(piece.iov_base) + begin, n});
    }
  }
  void end_capture(int error) {
    // Half a record would make the whole file unreadable to some.
    [[maybe_unused]] const int cut = ::ftruncate(fd_.get(), end_);
    fd_.reset();
    log_.write(LogLevel::warn, fmt::format("the capture '{}' ends here: {}", path_, std::strerror(error)));
  }

  std::string path_;
  Log& log_;
  std::mutex mutex_;
  UniqueFd fd_;                     // none: ended
  off_t end_ = sizeof(FileHeader);  // of the last whole record
  std::vector<iovec> parts_;
};

class PcapQueue final : public NetQueueFilter {
 public:
  PcapQueue(NetQueue& below, PcapFile& file) : NetQueueFilter(below), file_(file) {}

  Result<size_t> receive(std::span<const iovec> pieces) override {
    auto received = below().receive(pieces);
    if (received && *received > kNetHeaderSize) file_.write(pieces, *received);
    return received;
  }
  Result<bool> send(std::span<const iovec> pieces) override {
    auto sent = below().send(pieces);
    if (!sent || *sent) file_.write(pieces, pieces_size(pieces));  // what is lost further on was sent, too
    return sent;
  }

 private:
  PcapFile& file_;
};

class PcapNet final : public NetFilter {
 public:
  PcapNet(std::unique_ptr<NetBackend> below, const std::string& path, Log& log)
      : NetFilter(std::move(below)), file_(path, log) {
    wrap_queues([this](NetQueue& queue) { return std::make_unique<PcapQueue>(queue, file_); });
  }

 private:
  PcapFile file_;
};

}  // namespace

std::unique_ptr<NetBackend> capture_net(std::unique_ptr<NetBackend> below, const std::string& path,
                                        Log& log) {
  return std::make_unique<PcapNet>(std::move(below), path, log);
}

}  // namespace minivmm
