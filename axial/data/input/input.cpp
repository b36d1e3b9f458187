// SPDX-License-Identifier: Apache-2.0
// The three decoders of input.h over one buffered file: as is, zlib's inflate, zstd's streaming decoder.
#include "axial/data/input/input.h"

#include <fcntl.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>

#include "axial/core/check/check.h"

namespace axial::data {
namespace {

constexpr size_t kRawBuffer = size_t{1} << 18;
constexpr size_t kPiece = size_t{1} << 20;

// The stored bytes of a file with a look-ahead.
class RawFile {
 public:
  explicit RawFile(const std::filesystem::path& path) : name_(path.string()), buffer_(kRawBuffer) {
    fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd_ < 0) fail<IoError>("input", "cannot open '{}': {}", name_, std::strerror(errno));
    ::posix_fadvise(fd_, 0, 0, POSIX_FADV_SEQUENTIAL);
  }
  RawFile(const RawFile&) = delete;
  RawFile& operator=(const RawFile&) = delete;
  ~RawFile() { ::close(fd_); }

  // The bytes at hand, at least `want` unless the file ends before; empty at the end.
  std::string_view peek(size_t want) {
    if (end_ - begin_ < want) {
      std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
      end_ -= begin_;
      begin_ = 0;
      while (end_ < want) {
        const size_t got = read_some(buffer_.data() + end_, buffer_.size() - end_);
        if (got == 0) break;
        end_ += got;
      }
    }
    return {buffer_.data() + begin_, end_ - begin_};
  }
  void consume(size_t bytes) { begin_ += bytes; }

  size_t read_some(char* at, size_t bytes) {
    for (;;) {
      const ssize_t got = ::read(fd_, at, bytes);
      if (got >= 0) {
        stored_bytes_ += got;
        return static_cast<size_t>(got);
      }
      if (errno != EINTR) fail<IoError>("input", "cannot read '{}': {}", name_, std::strerror(errno));
    }
  }
  const std::string& name() const { return name_; }
  int64_t stored_bytes() const { return stored_bytes_; }

 private:
  std::string name_;
  std::vector<char> buffer_;
  size_t begin_ = 0;
  size_t end_ = 0;
  int64_t stored_bytes_ = 0;
  int fd_ = -1;
};

}  // namespace

struct InputStream::Decoder {
  Decoder(std::unique_ptr<RawFile> raw, Compression kind) : raw(std::move(raw)), kind(kind) {}
  virtual ~Decoder() = default;
  virtual size_t read(std::span<char> buffer) = 0;
  std::unique_ptr<RawFile> raw;
  Compression kind;
};

namespace {

using Decoder = InputStream::Decoder;

struct PlainDecoder final : Decoder {
  explicit PlainDecoder(std::unique_ptr<RawFile> raw) : Decoder(std::move(raw), Compression::kNone) {}

  size_t read(std::span<char> buffer) override {
    const std::string_view ready = raw->peek(0);
    size_t done = std::min(ready.size(), buffer.size());
    std::memcpy(buffer.data(), ready.data(), done);
    raw->consume(done);
    while (done < buffer.size()) {
      const size_t got = raw->read_some(buffer.data() + done, buffer.size() - done);
      if (got == 0) break;
      done += got;
    }
    return done;
  }
};

struct GzipDecoder final : Decoder {
  explicit GzipDecoder(std::unique_ptr<RawFile> file) : Decoder(std::move(file), Compression::kGzip) {
    if (inflateInit2(&stream_, 15 + 16) != Z_OK) fail<IoError>("input", "cannot start zlib");
  }
  ~GzipDecoder() override { inflateEnd(&stream_); }

  size_t read(std::span<char> buffer) override {
    size_t done = 0;
    while (done < buffer.size() && !at_end_) {
      const std::string_view in = raw->peek(1);
      if (in.empty()) {
        fail<IoError>("input", "'{}': truncated gzip stream; expected its end mark, got the end of the file",
                      raw->name());
      }
      stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(in.data()));
      stream_.avail_in = static_cast<uInt>(in.size());
      stream_.next_out = reinterpret_cast<Bytef*>(buffer.data() + done);
      const auto room = static_cast<uInt>(std::min(buffer.size() - done, kPiece));
      stream_.avail_out = room;
      const int result = inflate(&stream_, Z_NO_FLUSH);
      raw->consume(in.size() - stream_.avail_in);
      done += room - stream_.avail_out;
      if (result == Z_STREAM_END) {
        next_member();
      } else if (result != Z_OK && result != Z_BUF_ERROR) {
        fail<IoError>("input", "'{}': damaged gzip stream ({})", raw->name(),
                      stream_.msg ? stream_.msg : "zlib gives no reason");
      }
    }
    return done;
  }

 private:
  // After a member: the end, another member, or padding with zeros up to the end (tapes, block devices).
  void next_member() {
    const std::string_view magic = raw->peek(2);
    if (magic.size() >= 2 && magic.substr(0, 2) == "\x1f\x8b") {
      inflateReset(&stream_);
      return;
    }
    at_end_ = true;
    for (std::string_view rest = raw->peek(1); !rest.empty(); rest = raw->peek(1)) {
      if (rest.find_first_not_of('\0') != std::string_view::npos) {
        fail<IoError>("input", "'{}': bytes that are not gzip follow the gzip stream", raw->name());
      }
      raw->consume(rest.size());
    }
  }

  z_stream stream_{};
  bool at_end_ = false;
};

struct ZstdDecoder final : Decoder {
  explicit ZstdDecoder(std::unique_ptr<RawFile> file) : Decoder(std::move(file), Compression::kZstd) {
    if (!context_) fail<IoError>("input", "cannot start zstd");
    ZSTD_DCtx_setParameter(context_.get(), ZSTD_d_windowLogMax, 31);
  }

  size_t read(std::span<char> buffer) override {
    size_t done = 0;
    while (done < buffer.size()) {
      const std::string_view stored = raw->peek(1);
      if (stored.empty() && hint_ == 0) break;
      ZSTD_inBuffer in{stored.data(), stored.size(), 0};
      ZSTD_outBuffer out{buffer.data() + done, buffer.size() - done, 0};
      hint_ = ZSTD_decompressStream(context_.get(), &out, &in);
      if (ZSTD_isError(hint_)) {
        fail<IoError>("input", "'{}': damaged zstd stream ({})", raw->name(), ZSTD_getErrorName(hint_));
      }
      if (stored.empty() && out.pos == 0 && hint_ != 0) {
        fail<IoError>("input",
                      "'{}': truncated zstd stream; expected its last block, got the end of the file",
                      raw->name());
      }
      raw->consume(in.pos);
      done += out.pos;
    }
    return done;
  }

 private:
  struct Free {
    void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
  };
  std::unique_ptr<ZSTD_DCtx, Free> context_{ZSTD_createDCtx()};
  size_t hint_ = 0;  // 0 between frames
};

// The name of a packing that we know but do not read, or null.
const char* foreign_packing(std::string_view magic) {
  using namespace std::string_view_literals;
  if (magic.starts_with("BZh"sv)) return "bzip2";
  if (magic.starts_with("\xfd"
                        "7zXZ"sv))
    return "xz";
  if (magic.starts_with("PK\x03\x04"sv)) return "zip";
  if (magic.starts_with("\x04\x22\x4d\x18"sv)) return "lz4";
  if (magic.starts_with("7z\xbc\xaf"sv)) return "7-zip";
  return nullptr;
}

bool is_zstd(std::string_view magic) {
  if (magic.size() < 4) return false;
  const auto at = [&](int i) { return static_cast<uint32_t>(static_cast<unsigned char>(magic[i])); };
  const uint32_t number = at(0) | at(1) << 8 | at(2) << 16 | at(3) << 24;
  return number == 0xFD2FB528u || (number & 0xFFFFFFF0u) == 0x184D2A50u;  // frame, skippable frame
}

}  // namespace

InputStream::InputStream(const std::filesystem::path& path) {
  auto raw = std::make_unique<RawFile>(path);
  const std::string_view magic = raw->peek(6);
  if (magic.size() >= 2 && magic.substr(0, 2) == "\x1f\x8b") {
    decoder_ = std::make_unique<GzipDecoder>(std::move(raw));
  } else if (is_zstd(magic)) {
    decoder_ = std::make_unique<ZstdDecoder>(std::move(raw));
  } else if (const char* packing = foreign_packing(magic)) {
    fail<IoError>("input", "'{}' is packed with {}; expected a plain, gzip or zstd file", raw->name(),
                  packing);
  } else {
    decoder_ = std::make_unique<PlainDecoder>(std::move(raw));
  }
}

InputStream::InputStream(InputStream&&) noexcept = default;
InputStream& InputStream::operator=(InputStream&&) noexcept = default;
InputStream::~InputStream() = default;

size_t InputStream::read(std::span<char> buffer) { return decoder_->read(buffer); }
Compression InputStream::compression() const { return decoder_->kind; }
int64_t InputStream::stored_bytes() const { return decoder_->raw->stored_bytes(); }

void for_each_piece(const std::filesystem::path& path, const std::function<void(std::string_view)>& on_piece,
                    const std::function<void(int64_t)>& on_stored) {
  InputStream stream(path);
  std::vector<char> buffer(kPiece);
  for (;;) {
    const size_t got = stream.read(buffer);
    if (got > 0) on_piece({buffer.data(), got});
    if (on_stored) on_stored(stream.stored_bytes());
    if (got < buffer.size()) return;
  }
}

}  // namespace axial::data
