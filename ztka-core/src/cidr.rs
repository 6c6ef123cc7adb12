//! A range of addresses.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// A range of addresses, `10.0.0.0/8` or `2001:db8::/32`; an address alone is a range of one.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    address: IpAddr,
    bits: u8,
}

/// A text that is not a range of addresses.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a range of addresses: write one as 10.0.0.0/8 or 2001:db8::/32")]
pub struct InvalidCidr;

impl FromStr for Cidr {
    type Err = InvalidCidr;

    fn from_str(text: &str) -> Result<Self, InvalidCidr> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| InvalidCidr)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits: u8 = bits.map_or(Ok(most), str::parse).map_err(|_| InvalidCidr)?;
        if bits > most {
            return Err(InvalidCidr);
        }
        // An IPv4 address within IPv6 is that address: it is what connections are told to be from.
        match (address, address.to_canonical()) {
            (IpAddr::V6(_), address @ IpAddr::V4(_)) => {
                Ok(Self { address, bits: bits.checked_sub(96).ok_or(InvalidCidr)? })
            }
            _ => Ok(Self { address, bits }),
        }
    }
}

impl Cidr {
    /// True if `address` lies in the range.
    pub fn contains(&self, address: IpAddr) -> bool {
        let bits = |address: Ipv4Addr| u128::from(u32::from(address)) << 96;
        let (ours, theirs) = match (self.address, address.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => (bits(ours), bits(theirs)),
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => (u128::from(ours), u128::from(theirs)),
            _ => return false,
        };
        let mask = u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0);
        (ours ^ theirs) & mask == 0
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl TryFrom<String> for Cidr {
    type Error = InvalidCidr;

    fn try_from(text: String) -> Result<Self, InvalidCidr> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(range: Cidr) -> Self {
        range.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let has = |range: &str, address: &str| range.parse::<Cidr>().unwrap().contains(address.parse().unwrap());
        assert!(has("10.0.0.0/8", "10.255.0.1") && !has("10.0.0.0/8", "11.0.0.1"));
        assert!(has("0.0.0.0/0", "1.2.3.4") && !has("0.0.0.0/0", "::1"));
        assert!(has("::1", "::1") && !has("::1", "::2") && has("10.0.0.1", "::ffff:10.0.0.1"));
        assert!(has("::ffff:10.0.0.0/104", "10.0.0.1") && !has("::ffff:10.0.0.0/104", "11.0.0.1"));
        assert!("::ffff:10.0.0.0/95".parse::<Cidr>().is_err());
        assert!("10.0.0.0/33".parse::<Cidr>().is_err() && "a/8".parse::<Cidr>().is_err());
    }

    #[test]
    fn is_read_as_written() {
        for (text, written) in [("10.0.0.0/8", "10.0.0.0/8"), ("::1", "::1/128"), ("::ffff:10.0.0.1", "10.0.0.1/32")] {
            let range: Cidr = text.parse().unwrap();
            assert_eq!(range.to_string(), written);
            assert_eq!(serde_json::from_str::<Cidr>(&serde_json::to_string(&range).unwrap()).unwrap(), range);
        }
        assert!(serde_json::from_str::<Cidr>("\"10.0.0.0/8 \"").is_err());
    }
}
