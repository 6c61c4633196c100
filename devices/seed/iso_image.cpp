#include "devices/seed/iso_image.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <memory>

#include "devices/seed/archive_library.h"
#include "vmm/core/error.h"

namespace minivmm {

namespace {

class Writer {
 public:
  Writer(const ArchiveLibrary& library, int fd, std::string_view volume_id)
      : library_(library), archive_(library.write_new()) {
    if (archive_ == nullptr) throw HostError(ENOMEM, "cannot write the cloud-init disk: no memory");
    check(library_.write_set_format_iso9660(archive_));
    // Without padding: what there is to read is all that a disk has to hold.
    const std::string options = fmt::format("volume-id={},rockridge=strict,joliet,!pad", volume_id);
    check(library_.write_set_options(archive_, options.c_str()));
    check(library_.write_open_fd(archive_, fd));
  }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;
  ~Writer() { library_.write_free(archive_); }

  void add(const IsoFile& file) {
    const auto free = [this](archive_entry* entry) { library_.entry_free(entry); };
    const std::unique_ptr<archive_entry, decltype(free)> entry(library_.entry_new(), free);
    if (entry == nullptr) throw HostError(ENOMEM, "cannot write the cloud-init disk: no memory");
    library_.entry_set_pathname(entry.get(), file.name.c_str());
    library_.entry_set_filetype(entry.get(), S_IFREG);
    library_.entry_set_perm(entry.get(), 0400);
    library_.entry_set_size(entry.get(), static_cast<la_int64_t>(file.content.size()));
    library_.entry_set_mtime(entry.get(), 0, 0);
    check(library_.write_header(archive_, entry.get()));
    const la_ssize_t put = library_.write_data(archive_, file.content.data(), file.content.size());
    if (put != static_cast<la_ssize_t>(file.content.size())) fail();
  }

  void finish() { check(library_.write_close(archive_)); }

 private:
  void check(int result) const {
    if (result != ARCHIVE_OK) fail();
  }
  [[noreturn]] void fail() const {
    const char* const why = library_.error_string(archive_);
    throw HostError(EIO,
                    fmt::format("cannot write the cloud-init disk: libarchive says: {}; it needs room in "
                                "$TMPDIR (else /tmp)",
                                why == nullptr ? "no reason given" : why));
  }

  const ArchiveLibrary& library_;
  archive* archive_;
};

}  // namespace

UniqueFd make_iso_image(std::string_view volume_id, std::span<const IsoFile> files) {
  UniqueFd image(::memfd_create("minivmm-iso", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!image) throw_errno("make memory for the cloud-init disk");
  const auto library = load_archive_library();
  {
    Writer writer(*library, image.get(), volume_id);
    for (const IsoFile& file : files) writer.add(file);
    writer.finish();
  }
  constexpr int kSeals = F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL;
  if (::fcntl(image.get(), F_ADD_SEALS, kSeals) != 0) throw_errno("seal the cloud-init disk");
  return image;
}

}  // namespace minivmm
