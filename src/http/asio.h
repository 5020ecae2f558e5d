// Boost.Asio as it is used here. Its own code is compiled once, in asio_impl.cc: this header comes before any
// other Boost header, and only this one defines how.
#pragma once

// clang-format off
#define BOOST_ASIO_SEPARATE_COMPILATION 1
#define BOOST_ASIO_NO_DEPRECATED 1

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/system/error_code.hpp>
// clang-format on
