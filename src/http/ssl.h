// Asio over OpenSSL, for transport.cc alone.
#pragma once

// clang-format off
#include "http/asio.h"
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/write.hpp>
// clang-format on
